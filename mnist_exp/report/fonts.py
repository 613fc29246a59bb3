"""Find installed fonts for the characters that Matplotlib's own fonts lack.

Matplotlib would draw boxes instead and print a warning for each character.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from matplotlib import font_manager
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from mnist_exp.runs.log import warn
from mnist_exp.text import escape_controls

_PLAIN = FontProperties()
_LAST_RESORT = "lastresort"  # Matplotlib's font of boxes, which seems to have every character


def prepare_text(text: Text) -> None:
    """Make a text drawable: add fonts for the characters that its own font lacks, and escape those without any."""
    content = text.get_text()
    shown = drawable(content, text.get_fontproperties())
    if shown != content:
        text.set_text(shown)
    if families := _families(_lacking(shown, text.get_fontproperties())):
        text.set_fontfamily([*text.get_fontfamily(), *families])


def drawable(text: str, properties: FontProperties = _PLAIN) -> str:
    """Return a text with control characters, and characters that no installed font has, written as `\\u72ac`."""
    text = escape_controls(text)
    lacking = _lacking(text, properties)
    unknown = {character for character in lacking if font_with(character) is None}
    if not unknown:
        return text
    return "".join(one.encode("unicode_escape").decode() if one in unknown else one for one in text)


def has_glyphs(text: str) -> bool:
    """Return whether installed fonts have all characters of a text; if not, warn once."""
    if all(map(font_with, _lacking(escape_controls(text, one_line=True), _PLAIN))):
        return True
    _warn_of_missing_fonts()
    return False


@cache
def font_with(character: str) -> str | None:
    """Return the family of an installed font that has a character; None if there is none."""
    return next((family for family, codes in _installed_fonts().items() if ord(character) in codes), None)


@cache
def _warn_of_missing_fonts() -> None:
    warn(
        "no installed font has all characters of the class names: pictures show class numbers instead; "
        "a font such as Noto Sans CJK helps"
    )


def _families(characters: Iterable[str]) -> list[str]:
    """Return the families of fonts that have the characters, as far as there are any."""
    return list(dict.fromkeys(family for one in characters if (family := font_with(one)) is not None))


def _lacking(text: str, properties: FontProperties) -> list[str]:
    """Return the different characters of a text that its own font lacks."""
    if text.isascii():
        return []
    own = _characters(str(font_manager.findfont(properties)))
    return [character for character in dict.fromkeys(text) if character != "\n" and ord(character) not in own]


@cache
def _installed_fonts() -> dict[str, frozenset[int]]:
    """Return the code points of each installed family, upright sans-serif fonts of normal weight first.

    Matplotlib's list of fonts is from its first start and may lack fonts installed since, so they are added to it.
    """
    manager = font_manager.fontManager
    known = {entry.fname for entry in manager.ttflist}
    for file in set(font_manager.findSystemFonts()) - known:
        try:
            manager.addfont(file)
        except Exception:  # FreeType and Matplotlib raise errors of many types for unusable files
            continue
    fonts: dict[str, frozenset[int]] = {}
    for entry in sorted(manager.ttflist, key=_strangeness):
        if entry.name not in fonts and _LAST_RESORT not in entry.fname.lower():
            fonts[entry.name] = _characters(entry.fname)
    return fonts


def _strangeness(entry: font_manager.FontEntry) -> tuple[bool, bool, bool, str]:
    return entry.style != "normal", entry.weight not in (400, "normal"), "Sans" not in entry.name, entry.name


@cache
def _characters(file: str) -> frozenset[int]:
    """Return the code points that a font file has glyphs for; none if the file is unusable."""
    try:
        return frozenset(FT2Font(file).get_charmap())
    except Exception:  # FreeType raises errors of many types
        return frozenset()
