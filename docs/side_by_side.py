"""Puts the same square of several pictures of one size side by side, each enlarged and named:

    python docs/side_by_side.py made.png 180,60,128 blurry=hidden/cat.png student=restored/cat.png

The square begins at column 180 and row 60, and has 128 pixels a side.
"""

import sys

from PIL import Image, ImageDraw, ImageFont

WIDTH, GAP, LABEL = 360, 8, 26  # pixels of a square on the page, between two, and of the line above


def main() -> None:
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    out, square, *named = sys.argv[1:]
    left, top, side = map(int, square.split(","))
    sheet = Image.new("RGB", (len(named) * (WIDTH + GAP) - GAP, LABEL + WIDTH), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for number, each in enumerate(named):
        name, _, file = each.partition("=")
        picture = Image.open(file).convert("RGB").crop((left, top, left + side, top + side))
        sheet.paste(picture.resize((WIDTH, WIDTH), Image.Resampling.NEAREST), (number * (WIDTH + GAP), LABEL))
        draw.text((number * (WIDTH + GAP), 0), name, "black", font)
    sheet.save(out)


if __name__ == "__main__":
    main()
