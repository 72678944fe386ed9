"""Captions for scenes, in many phrasings, so that a person's own wording works.

`caption(scene, rng)` draws one. Every word group below is a list of equal meanings; a caption may leave out the size,
the background (only where it is plain) and "stands still", and may carry words that mean nothing to the model.
"""

from __future__ import annotations

import random

from .data import Scene

COLOUR_WORDS = {
    "red": ("red", "red", "red", "scarlet", "crimson", "bright red"),
    "green": ("green", "green", "green", "bright green", "emerald"),
    "blue": ("blue", "blue", "blue", "bright blue"),
    "yellow": ("yellow", "yellow", "yellow", "golden", "bright yellow"),
    "purple": ("purple", "purple", "purple", "violet"),
    "orange": ("orange", "orange", "orange", "bright orange"),
    "cyan": ("cyan", "cyan", "cyan", "turquoise", "aqua", "light blue", "teal"),
    "white": ("white", "white", "white", "snow white"),
}
SHAPE_WORDS = {
    "circle": ("circle", "circle", "circle", "ball", "disc", "disk", "dot", "round shape"),
    "square": ("square", "square", "square", "box", "block", "square shape"),
    "triangle": ("triangle", "triangle", "triangle", "triangular shape"),
    "star": ("star", "star", "star", "five-pointed star", "star shape"),
}
SIZE_WORDS = {
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big", "big", "huge"),
}
BACKGROUND_WORDS = {
    "black": ("black", "black", "dark"),
    "gray": ("gray", "grey", "dark gray"),
    "navy": ("navy", "navy blue", "dark blue"),
    "brown": ("brown", "brown", "dark brown"),
    "beige": ("beige", "beige", "tan", "cream"),
    "pink": ("pink", "pink", "rose"),
}
VERBS = (
    ("moves", "moving"),
    ("moves", "moving"),
    ("moves", "moving"),
    ("slides", "sliding"),
    ("drifts", "drifting"),
    ("glides", "gliding"),
    ("goes", "going"),
    ("travels", "travelling"),
    ("flies", "flying"),
    ("floats", "floating"),
    ("runs", "running"),
    ("rolls", "rolling"),
    ("shifts", "shifting"),
)
WAYS = {
    "right": (
        "to the right",
        "to the right",
        "right",
        "rightward",
        "rightwards",
        "from left to right",
        "towards the right",
    ),
    "left": ("to the left", "to the left", "left", "leftward", "leftwards", "from right to left", "towards the left"),
    "up": ("up", "up", "upward", "upwards", "to the top", "from bottom to top", "towards the top"),
    "down": ("down", "down", "downward", "downwards", "to the bottom", "from top to bottom", "towards the bottom"),
}
RISES = {
    "up": (("rises", "rising"), ("climbs", "climbing")),
    "down": (("falls", "falling"), ("sinks", "sinking"), ("drops", "dropping")),
}
OTHER_MOTIONS = {
    "grow": (
        ("grows", "growing"),
        ("grows", "growing"),
        ("gets bigger", "getting bigger"),
        ("gets larger", "getting larger"),
        ("grows larger", "growing larger"),
        ("expands", "expanding"),
        ("becomes bigger", "becoming bigger"),
        ("increases in size", "increasing in size"),
        ("swells", "swelling"),
    ),
    "shrink": (
        ("shrinks", "shrinking"),
        ("shrinks", "shrinking"),
        ("gets smaller", "getting smaller"),
        ("becomes smaller", "becoming smaller"),
        ("contracts", "contracting"),
        ("decreases in size", "decreasing in size"),
        ("grows smaller", "growing smaller"),
    ),
    "bounce": (
        ("bounces", "bouncing"),
        ("bounces", "bouncing"),
        ("bounces up and down", "bouncing up and down"),
        ("jumps up and down", "jumping up and down"),
        ("moves up and down", "moving up and down"),
        ("hops", "hopping"),
        ("jumps", "jumping"),
    ),
    "still": (
        ("stands still", "standing still"),
        ("stands still", "standing still"),
        ("stays still", "staying still"),
        ("does not move", "not moving"),
        ("stays in place", "staying in place"),
        ("is motionless", "motionless"),
        ("rests", "resting"),
        ("is still", "still"),
        ("stays where it is", "staying where it is"),
    ),
}
OPENINGS = (
    "a video of ",
    "video of ",
    "an animation of ",
    "a clip of ",
    "show ",
    "animation: ",
    "make a video of ",
    "a short video of ",
)
ADVERBS = ("slowly", "smoothly", "steadily", "gently", "quickly", "quietly", "simply", "calmly")
FILLERS = (
    "shiny", "pretty", "nice", "flat", "simple", "beautiful", "bold", "plain", "happy", "lonely", "strange", "perfect",
    "cute", "funny", "new", "old", "single", "soft", "clean", "solid", "colourful", "glowing", "magic", "lovely",
)  # fmt: skip


def caption(scene: Scene, rng: random.Random) -> str:
    """One caption of the scene."""
    thing = _thing(scene, rng)
    verb, gerund = _movement(scene.motion, rng)
    if rng.random() < 0.12:
        adverb = rng.choice(ADVERBS)
        verb, gerund = rng.choice(
            ((f"{adverb} {verb}", f"{adverb} {gerund}"), (f"{verb} {adverb}", f"{gerund} {adverb}"))
        )
    back = _background(scene, rng)
    text = _sentence(thing, verb, gerund, back, rng)
    if scene.motion == "still" and rng.random() < 0.3:
        text = f"{thing}{back and ' ' + back}"
    if rng.random() < 0.2:
        text = rng.choice(OPENINGS) + text
    return _typed(text, rng)


def _thing(scene: Scene, rng: random.Random) -> str:
    colour, shape = rng.choice(COLOUR_WORDS[scene.colour]), rng.choice(SHAPE_WORDS[scene.shape])
    size = rng.choice(SIZE_WORDS[scene.size]) if rng.random() < 0.7 else ""
    words = [word for word in (size, colour) if word]
    if rng.random() < 0.08:
        rng.shuffle(words)
    if rng.random() < 0.1:
        words.insert(rng.randrange(len(words) + 1), _meaningless(rng))
    article = rng.choice(("a", "a", "a", "the", "one", ""))
    name = " ".join([*words, shape])
    article = "an" if article == "a" and name[0] in "aeiou" else article
    if size and rng.random() < 0.06:
        return f"{article} {colour} {shape}, {size},".strip()
    return f"{article} {name}".strip()


def _meaningless(rng: random.Random) -> str:
    """A word without a meaning here: the model learns to overlook what it does not know."""
    if rng.random() < 0.6:
        return rng.choice(FILLERS)
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 9)))


def _movement(motion: str, rng: random.Random) -> tuple[str, str]:
    """The verb phrase, as "moves left" and as "moving left"."""
    if motion in OTHER_MOTIONS:
        return rng.choice(OTHER_MOTIONS[motion])
    if motion in RISES and rng.random() < 0.3:
        return rng.choice(RISES[motion])
    verb, gerund = rng.choice(VERBS)
    way = _way(motion, rng)
    return f"{verb} {way}", f"{gerund} {way}"


def _way(motion: str, rng: random.Random) -> str:
    if " " not in motion:
        return rng.choice(WAYS[motion])
    vertical, side = motion.split()
    corner = {"up": rng.choice(("top", "upper")), "down": rng.choice(("bottom", "lower"))}[vertical]
    return rng.choice(
        (
            f"{vertical} and to the {side}",
            f"{vertical} and to the {side}",
            f"{vertical} and {side}",
            f"{vertical} {side}",
            f"diagonally {vertical} and to the {side}",
            f"diagonally {vertical} {side}",
            f"diagonally to the {corner} {side}",
            f"to the {corner} {side}",
            f"to the {corner} {side} corner",
            f"towards the {corner} {side}",
            f"{side} and {vertical}",
            f"{vertical}wards to the {side}",
        )
    )


def _background(scene: Scene, rng: random.Random) -> str:
    names = [rng.choice(BACKGROUND_WORDS[name]) for name in scene.background]
    if scene.split is None:
        if rng.random() < 0.3:
            return ""
        (name,) = names
        article = "an" if name[0] in "aeiou" else "a"
        kind = rng.choice(("", "", "", "plain ", "solid "))
        article = "a" if kind else article
        place = rng.choice(("on", "on", "on", "over", "against", "in front of", "with"))
        return f"{place} {article} {kind}{name} background"
    first, second = names
    if scene.split == "vertical":
        exact = (f"{first} on the left and {second} on the right", f"{first} left and {second} right")
    else:
        exact = (f"{first} above and {second} below", f"{first} on top and {second} at the bottom")
    return rng.choice(
        (
            f"on a background that is {rng.choice(exact)}",
            f"on a background that is {rng.choice(exact)}",
            f"on a background, {rng.choice(exact)}",
            f"on a {first} and {second} background",
            f"on a two-tone {first} and {second} background",
            f"on a half {first}, half {second} background",
        )
    )


def _sentence(thing: str, verb: str, gerund: str, back: str, rng: random.Random) -> str:
    end = f" {back}" if back else ""
    forms = [f"{thing} {verb}{end}"] * 5 + [f"{thing} {gerund}{end}"] * 2
    forms += [f"{thing} is {gerund}{end}", f"{thing} that {verb}{end}", f"{thing}, {gerund}{end}"]
    forms += [f"{thing} which is {gerund}{end}"]
    if back:
        forms += [
            f"{back}, {thing} {verb}",
            f"{thing}{end} {verb}",
            f"{thing}{end}, {gerund}",
            f"{thing} {verb}, {back}",
        ]
    return rng.choice(forms)


def _typed(text: str, rng: random.Random) -> str:
    """The ways people type: capitals, a full stop, none."""
    text = " ".join(text.replace(",,", ",").replace(", ,", ",").split())
    style = rng.random()
    if style < 0.3:
        text = text[0].upper() + text[1:]
    elif style < 0.34:
        text = text.upper()
    return text + rng.choice(("", "", "", ".", ".", "!") if style < 0.5 else ("",))
