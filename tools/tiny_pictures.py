"""Draw batches of small pictures: letters, digits, shapes and textures, clean or badly degraded.

Everything is a batched tensor operation on distance fields; `Painter` owns one random generator, so
a seed fixes every picture. Each picture comes with a row of attributes (see `FIELDS`), from which
captions are made.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from tiny_bank import CHARACTERS, REACH, SHAPES, SIDE, SPAN
from tiny_strokes import stroke_table

SIZE = 32
FIELDS = (
    "family",
    "name",
    "case",
    "ink",
    "ground",
    "size",
    "place",
    "count",
    "name2",
    "ink2",
    "relation",
)
FIELD = {name: index for index, name in enumerate(FIELDS)}
FAMILIES = ("glyph", "shape", "count", "pair", "texture")
UNNAMED = -2  # an attribute that a picture has, but no caption can state

NAMES = "0123456789abcdefghijklmnopqrstuvwxyz"
TEXTURES = (
    "horizontal stripes", "vertical stripes", "diagonal stripes", "checkerboard", "dots", "grid",
    "noise", "gradient",
)  # fmt: skip
COLOURS = {
    "black": (0.05, 0.05, 0.05),
    "white": (0.95, 0.95, 0.95),
    "gray": (0.5, 0.5, 0.5),
    "red": (0.88, 0.1, 0.12),
    "green": (0.1, 0.65, 0.2),
    "blue": (0.12, 0.25, 0.88),
    "yellow": (0.95, 0.88, 0.1),
    "orange": (0.97, 0.55, 0.08),
    "purple": (0.5, 0.12, 0.65),
    "pink": (0.98, 0.55, 0.75),
    "brown": (0.45, 0.27, 0.1),
    "cyan": (0.2, 0.85, 0.9),
}
PLACES = {"left": (-7, 0), "right": (7, 0), "top": (0, -7), "bottom": (0, 7), "center": (0, 0)}
_GRAIN = (
    32,
    24,
    16,
    12,
    10,
    8,
)  # pixels per side that a picture is reduced to before it is blown up


class Painter:
    """Draws pictures.

    Parameters
    ----------
    bank : mapping of ndarray
        What `tiny_bank.build_bank` returns.
    seed : int
        Seeds every random choice.
    families : sequence of int or None
        Font families to draw with; all of them by default.
    pens : bool
        Whether to draw pen strokes beside fonts.
    """

    def __init__(self, bank, seed=0, families=None, pens=True):
        self.random = torch.Generator().manual_seed(seed)
        self.fields = torch.from_numpy(bank["fields"])
        self.halves = torch.from_numpy(bank["halves"])
        kind, family = bank["kind"], bank["family"]
        self.shapes = torch.from_numpy(np.flatnonzero(kind >= len(CHARACTERS)))
        chosen = [f for f in range(len(bank["families"])) if families is None or f in families]
        # Family first, then face: a family of forty faces must not crowd out the others.
        self.faces = [
            [np.flatnonzero((family == f) & (kind == c)) for f in chosen]
            for c in range(len(CHARACTERS))
        ]
        self.pens = pens
        points, owner = stroke_table(CHARACTERS)
        self.points = torch.from_numpy(points)
        self.allographs = [np.flatnonzero(owner == c) for c in range(len(CHARACTERS))]
        self.knots = _knot_weights(points.shape[1])
        line = torch.arange(SIZE) - (SIZE - 1) / 2
        y, x = torch.meshgrid(line, line, indexing="ij")
        self.pixels = torch.stack([x, y], dim=-1)
        self.palette = torch.tensor(list(COLOURS.values()))

    # Random helpers: uniform, normal, integers, coin.

    def _u(self, low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=self.random)

    def _n(self, scale, *shape):
        return scale * torch.randn(*shape, generator=self.random)

    def _i(self, high, *shape):
        return torch.randint(high, shape, generator=self.random)

    def _coin(self, chance, *shape):
        return torch.rand(*shape, generator=self.random) < chance

    # Public: whole pictures.

    def glyphs(self, n, level=1.0, digits=0.5):
        """Draw letters and digits.

        Parameters
        ----------
        n : int
            Number of pictures.
        level : float
            From 0 (clean and centred) to 1 (everything that can happen to ink).
        digits : float
            Share of digits.

        Returns
        -------
        pictures : tensor of shape (n, 3, SIZE, SIZE)
            Values from 0 to 1.
        attributes : int64 tensor of shape (n, len(FIELDS))
        """
        digit = self._coin(digits, n)
        character = torch.where(digit, self._i(10, n), 10 + self._i(52, n))
        pen = self._coin(0.55 if self.pens else 0.0, n)
        distance = torch.empty(n, SIZE, SIZE)
        at = pen.nonzero()[:, 0]
        if len(at):
            distance[at] = self._pen_fields(character[at], level)
        at = (~pen).nonzero()[:, 0]
        if len(at):
            distance[at] = self._font_fields(character[at], level)
        ink, ground, attributes = self._glyph_colours(n)
        attributes[:, FIELD["family"]] = 0
        attributes[:, FIELD["name"]] = torch.where(character < 36, character, character - 26)
        attributes[:, FIELD["case"]] = torch.where(digit, 0, torch.where(character < 36, 1, 2))
        pictures = self._paint(distance, ink, self._background(ground, level), level)
        return self._degrade(pictures, level), attributes

    def scenes(self, n, level=1.0):
        """Draw shapes, several shapes, pairs of shapes, and textures; see `glyphs`."""
        family = 1 + torch.multinomial(
            torch.tensor([0.4, 0.2, 0.2, 0.2]), n, True, generator=self.random
        )
        attributes = torch.full((n, len(FIELDS)), UNNAMED)
        attributes[:, 0] = family
        colours = self._three_colours(n)
        inks, ground = colours[:, :2], colours[:, 2]
        attributes[:, FIELD["ink"]], attributes[:, FIELD["ground"]] = inks[:, 0], ground
        pictures = self._background(self._shade(ground), 0.3 * level)
        places, radii, kinds, second = self._arrange(family, attributes)
        attributes[:, FIELD["ink2"]] = torch.where(family == 3, inks[:, 1], UNNAMED)
        first_ink, second_ink = self._shade(inks[:, 0]), self._shade(inks[:, 1])
        for slot in range(places.shape[1]):
            distance = self._shape_fields(kinds[:, slot], places[:, slot], radii[:, slot])
            ink = torch.where((second[:, slot])[:, None], second_ink, first_ink)
            pictures = self._paint(distance, ink, pictures, 0.0)
        at = (family == 4).nonzero()[:, 0]
        name, pattern = self._textures(len(at))
        attributes[at, FIELD["name"]] = name
        shades = torch.stack([first_ink[at], self._shade(ground[at])], dim=1)[..., None, None]
        pictures[at] = shades[:, 0] * pattern[:, None] + shades[:, 1] * (1 - pattern[:, None])
        return self._degrade(pictures, 0.5 * level, coarsest=12), attributes

    # Shapes of ink.

    def _pen_fields(self, character, level):
        """Distance to pen strokes, after the hand has trembled."""
        n = len(character)
        pick = np.random.default_rng(int(self._i(2**31, 1)))
        which = torch.tensor([int(pick.choice(self.allographs[c])) for c in character.tolist()])
        p = self.points[which]
        tremble = self._u(0.02, 0.13, n, 1, 1) * (0.4 + 0.6 * level)
        p = p + tremble * (self.knots @ self._n(1.0, n, self.knots.shape[1], 2))
        p = self._bend(p, 0.2 * level)
        p = torch.bmm(p, self._affine(n, level))
        low, high = p.amin(1), p.amax(1)
        p = p - ((low + high) / 2)[:, None]
        half = (high - low) / 2
        width = self._pen_width(n, level)
        scale, offset, framing = self._frame(half[:, 0], half[:, 1], width, level)
        p = p * scale[:, None] + offset[:, None]
        # Pressure: the pen's half width changes along the stroke.
        pressure = 1 + 0.25 * level * (self.knots @ self._n(1.0, n, self.knots.shape[1], 1))[..., 0]
        radius = (width * framing)[:, None] * pressure.clamp(0.5, 1.6)
        # The squared distance less the squared radius is linear in products: one bmm does.
        terms = torch.stack([-2 * p[..., 0], -2 * p[..., 1], (p**2).sum(-1) - radius**2], dim=1)
        flat = self.pixels.reshape(-1, 2)
        basis = torch.cat([flat, torch.ones(len(flat), 1)], dim=1)
        power = (basis @ terms).amin(2) + (flat**2).sum(1)
        mean = radius.mean(1, keepdim=True)
        distance = (power + mean**2).clamp(min=0).sqrt() - mean
        return distance.view(n, SIZE, SIZE)

    def _font_fields(self, character, level):
        """Distance to a font's glyph, bent and thickened."""
        n = len(character)
        pick = np.random.default_rng(int(self._i(2**31, 1)))
        which = []
        for c in character.tolist():
            faces = self.faces[c][pick.integers(len(self.faces[c]))]
            which.append(int(pick.choice(faces)))
        which = torch.tensor(which)
        affine = self._affine(n, level)
        half = self.halves[which] / (SPAN / 2)
        reach = (half[:, :, None] * affine.abs()).sum(1)
        thicken = self._u(-0.25, 1.3 * level + 0.2, n)
        scale, offset, framing = self._frame(reach[:, 0], reach[:, 1], thicken.clamp(min=0), level)
        warp = F.interpolate(
            self._n(1.0, n, 2, 4, 4), size=SIZE, mode="bicubic", align_corners=True
        )
        warp = warp * (self._u(0, 1.6, n, 1, 1, 1) * level)
        grid = self.pixels + warp.permute(0, 2, 3, 1) - offset[:, None, None]
        grid = (grid / scale[:, None, None]).view(n, -1, 2)
        grid = torch.bmm(grid, torch.linalg.inv(affine)).view(n, SIZE, SIZE, 2) * (SPAN / SIDE)
        field = self._sample(which, grid)
        pixel = (scale.prod(1).sqrt() * 2 / SPAN)[:, None, None]
        return field * pixel - (thicken * framing.clamp(max=1))[:, None, None]

    def _shape_fields(self, kind, place, radius):
        """Distance to a geometric shape at a place; `kind` -1 draws nothing."""
        n = len(kind)
        turn = self._n(0.08, n)
        rotation = torch.stack([turn.cos(), turn.sin(), -turn.sin(), turn.cos()], 1).view(n, 2, 2)
        grid = (self.pixels - place[:, None, None]) / radius[:, None, None, None]
        grid = torch.bmm(grid.view(n, -1, 2), rotation).view(n, SIZE, SIZE, 2) * (SPAN / SIDE)
        field = (
            self._sample(self.shapes[kind.clamp(min=0)], grid) * (radius * 2 / SPAN)[:, None, None]
        )
        return torch.where((kind < 0)[:, None, None], 99.0, field)

    def _sample(self, which, grid):
        field = self.fields[which].float()[:, None] * (2 * REACH / 255) - REACH
        return F.grid_sample(field, grid, padding_mode="border", align_corners=False)[:, 0]

    # Where the ink goes.

    def _affine(self, n, level):
        """Slant, turn and stretch, as matrices that multiply row vectors from the right."""
        turn, slant = self._n(0.12 * level, n), self._n(0.22 * level, n)
        stretch = self._n(0.16 * level, n).exp()
        cos, sin = turn.cos(), turn.sin()
        shear = torch.stack([stretch, torch.zeros(n), slant, 1 / stretch], 1).view(n, 2, 2)
        return shear @ torch.stack([cos, sin, -sin, cos], 1).view(n, 2, 2)

    def _bend(self, p, amount):
        x, y = p[..., 0], p[..., 1]
        a = self._n(amount, 6, len(p), 1)
        dx = a[0] * y * y + 0.7 * a[1] * x * y + 0.5 * a[2] * x * x
        dy = a[3] * x * x + 0.7 * a[4] * x * y + 0.7 * a[5] * y * y
        return torch.stack([x + dx, y + dy], dim=-1)

    def _pen_width(self, n, level):
        """Half the width of the pen in pixels, for a character that fills the frame."""
        return torch.where(self._coin(0.8, n), self._u(1.0, 2.8, n), self._u(0.6, 3.6, n))

    def _frame(self, half_x, half_y, extra, level):
        """Scale and offset for ink of half sizes `half_x`, `half_y`, `extra` pixels wider."""
        n = len(half_x)
        tight = self._coin(0.6, n)
        fill = torch.where(tight, 1 + self._n(0.04, n), self._u(0.5, 1.0, n)).clamp(0.35, 1.08)
        fill = torch.where(self._coin(level, n), fill, self._u(0.8, 0.95, n))
        room = (SIZE / 2 * fill - extra * fill).clamp(min=4)
        scale = room / torch.maximum(half_x, half_y)
        # Scanners often normalise the height: wide characters get squeezed, narrow ones stretched.
        squeeze = self._u(0.75, 1.35, n) * level + (1 - level)
        scale_x = torch.minimum(scale * squeeze, room / half_x.clamp(min=0.05))
        slack_x = (SIZE / 2 - extra * fill - scale_x * half_x).clamp(min=0)
        slack_y = (SIZE / 2 - extra * fill - scale * half_y).clamp(min=0)
        wander = torch.where(tight, 0.25, 0.9) * level
        offset = torch.stack([slack_x, slack_y], 1) * wander[:, None] * self._u(-1, 1, n, 2)
        return torch.stack([scale_x, scale], 1), offset, fill

    def _arrange(self, family, attributes):
        """Places, radii, kinds, second-ink flags of up to four shapes; fills in what they mean."""
        n = len(family)
        names = torch.stack(
            [torch.randperm(len(SHAPES), generator=self.random)[:2] for _ in range(n)]
        )
        places, radii = self._n(0.6, n, 4, 2), self._u(4.0, 6.0, n, 1).repeat(1, 4)
        kinds, second = torch.full((n, 4), -1), torch.zeros(n, 4, dtype=torch.bool)
        kinds[:, 0] = torch.where(family < 4, names[:, 0], -1)
        attributes[:, FIELD["name"]] = names[:, 0]
        spots = torch.tensor([[-8.0, -8], [8, -8], [-8, 8], [8, 8]])
        table = torch.tensor(list(PLACES.values()), dtype=torch.float)
        for i in range(n):
            if family[i] == 1:
                place, big = int(self._i(5, 1)), bool(self._coin(0.5, 1))
                big = big and place == 4
                places[i, 0] += table[place]
                radii[i] = self._u(10.5, 14.0, 1) if big else self._u(4.5, 7.5, 1)
                attributes[i, FIELD["place"]], attributes[i, FIELD["size"]] = place, int(big)
            elif family[i] == 2:
                count = 2 + int(self._i(3, 1))
                places[i] += spots[torch.randperm(4, generator=self.random)]
                kinds[i, :count] = names[i, 0]
                attributes[i, FIELD["count"]] = count
            elif family[i] == 3:
                relation = int(self._i(2, 1))  # 0: the first is left of the second, 1: above it
                shift = torch.tensor([8.0, 0.0] if relation == 0 else [0.0, 8.0])
                places[i, 0] -= shift
                places[i, 1] += shift
                kinds[i, 1], second[i, 1] = names[i, 1], True
                attributes[i, FIELD["name2"]], attributes[i, FIELD["relation"]] = (
                    names[i, 1],
                    relation,
                )
        return places, radii, kinds, second

    def _textures(self, n):
        """Patterns between 0 and 1, and their index into TEXTURES."""
        name = self._i(len(TEXTURES), n)
        period = self._u(4.0, 11.0, n, 1, 1)
        x = self.pixels[..., 0] + self._u(0, 11, n, 1, 1)
        y = self.pixels[..., 1] + self._u(0, 11, n, 1, 1)
        a, b = (2 * math.pi * x / period).sin(), (2 * math.pi * y / period).sin()
        diagonal = (2 * math.pi * (x + y * self._i(2, n, 1, 1).mul(2).sub(1)) / period / 1.4).sin()
        turn = self._u(0, 2 * math.pi, n, 1, 1)
        ramp = (self.pixels[..., 0] * turn.cos() + self.pixels[..., 1] * turn.sin()) / 16
        hard = [b, a, diagonal, a * b * 3, a + b - 0.7, torch.maximum(a, b) - 0.75]
        stack = torch.stack(
            [(3 * h).clamp(-1, 1) / 2 + 0.5 for h in hard]
            + [self._u(0, 1, n, SIZE, SIZE), ramp.clamp(-1, 1) / 2 + 0.5]
        )
        return name, stack[name, torch.arange(n)]

    # Ink and ground.

    def _shade(self, index):
        return (self.palette[index] + self._n(0.045, len(index), 3)).clamp(0, 1)

    def _three_colours(self, n):
        return torch.rand(n, len(COLOURS), generator=self.random).argsort(1)[:, :3]

    def _glyph_colours(self, n):
        """Inks and grounds: half of them greys, as scanners give, the others named colours."""
        attributes = torch.full((n, len(FIELDS)), UNNAMED)
        pair = self._three_colours(n)
        ink, ground = self._shade(pair[:, 0]), self._shade(pair[:, 1])
        grey = self._coin(0.6, n)
        bright, dark = self._u(0.7, 1.0, n), self._u(0.0, 0.18, n)
        light = self._coin(0.7, n)
        ink = torch.where(grey[:, None], torch.where(light, bright, dark)[:, None], ink)
        ground = torch.where(grey[:, None], torch.where(light, dark, bright)[:, None], ground)
        white, black = 1, 0
        attributes[:, FIELD["ink"]] = torch.where(
            grey, torch.where(light, white, black), pair[:, 0]
        )
        attributes[:, FIELD["ground"]] = torch.where(
            grey, torch.where(light, black, white), pair[:, 1]
        )
        return ink, ground, attributes

    def _background(self, ground, level):
        """A ground of one colour, or one that drifts slowly to another."""
        n = len(ground)
        drift = F.interpolate(
            self._n(1.0, n, 3, 3, 3), size=SIZE, mode="bicubic", align_corners=True
        )
        strength = self._u(0, 0.12, n, 1, 1, 1) * self._coin(0.4 * level, n, 1, 1, 1)
        return (ground[:, :, None, None] + drift * strength).clamp(0, 1)

    def _paint(self, distance, ink, pictures, level):
        softness = (self._u(0.25, 1.0 + 1.2 * level, len(ink)))[:, None, None]
        cover = torch.sigmoid(-distance * 2 / softness)[:, None]
        return cover * ink[:, :, None, None] + (1 - cover) * pictures

    def _degrade(self, pictures, level, coarsest=8):
        """Coarse pixels, few grey levels, noise; then blown up as a picture viewer would."""
        n = len(pictures)
        sides = [s for s in _GRAIN if s >= coarsest]
        weights = torch.tensor([1.0] + [level * (2.5 if s == 8 else 0.6) for s in sides[1:]])
        grain = torch.multinomial(weights, n, True, generator=self.random)
        noise = self._u(0, 0.08, n, 1, 1, 1) * self._coin(0.5 * level, n, 1, 1, 1)
        gamma = self._n(0.25 * level, n, 1, 1, 1).exp()
        levels = torch.tensor([255.0, 16.0, 8.0])[self._i(3, n)][:, None, None, None]
        out = torch.empty_like(pictures)
        for index, side in enumerate(sides):
            at = (grain == index).nonzero()[:, 0]
            if not len(at):
                continue
            small = (
                F.interpolate(pictures[at], size=side, mode="area") if side < SIZE else pictures[at]
            )
            small = (small ** gamma[at] + self._n(1.0, *small.shape) * noise[at]).clamp(0, 1)
            if side < 20:
                small = (small * levels[at]).round() / levels[at]
            # Antialiased, torch uses the cubic kernel of picture libraries.
            big = (
                F.interpolate(small, size=SIZE, mode="bicubic", antialias=True)
                if side < SIZE
                else small
            )
            out[at] = big
        return ((out * 255).round() / 255).clamp(0, 1)


def _knot_weights(n_points, n_knots=9):
    """Weights that spread values at a few knots smoothly over the points of a stroke."""
    at = np.linspace(0, n_knots - 1, n_points)[:, None] - np.arange(n_knots)
    weight = np.where(abs(at) < 1.5, np.cos(np.clip(at, -1.5, 1.5) * math.pi / 3) ** 2, 0)
    return torch.tensor(weight / weight.sum(1, keepdims=True), dtype=torch.float)
