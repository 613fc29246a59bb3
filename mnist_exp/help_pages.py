"""The pages of `docs/` that `mnist-exp help TOPIC` prints. The wheel contains them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mnist_exp.errors import RequestError
from mnist_exp.suggest import did_you_mean

_PACKAGE = Path(__file__).resolve().parent
_OF_VERBS = {
    "check": "configuration", "show": "models", "train": "training", "resume": "training", "lr_find": "training",
    "dataset": "data", "evaluate": "evaluating", "predict": "evaluating", "compare": "comparing", "tune": "tuning",
    "export": "exporting", "ensemble": "exporting", "visualize": "visualizing", "ui": "mlflow", "sync": "mlflow",
    "schema": "agents", "demo": "demo.md", "report": "report.md", "runs": "runs.md",
}  # fmt: skip


def list_topics(verbs: Collection[str]) -> list[str]:
    """Return the names of all topics, sorted. The topic of a page with the name of a verb ends in `.md`."""
    return [f"{name}.md" if name in verbs else name for name in sorted(_find_pages())]


def topic_of(verb: str) -> str:
    """Return the topic that describes a verb."""
    return _OF_VERBS[verb]


def read_page(topic: str, verbs: Collection[str]) -> str:
    """Return the Markdown text of a topic's page, ignoring case and a final `.md`.

    Raises:
        RequestError: There is no such topic.
    """
    page = _find_pages().get(topic.lower().removesuffix(".md"))
    if page is None:
        topics = list_topics(verbs)
        nearest = did_you_mean(topic, [*topics, *verbs])
        raise RequestError(f"{topic}: no such command or topic{nearest}; the topics are {', '.join(topics)}")
    return page.read_text(encoding="utf-8")


def _find_pages() -> dict[str, Path]:
    """Return the pages by their topics: the wheel's, or else those of the checkout's `docs/`."""
    packaged = _PACKAGE / "help"
    folder = packaged if packaged.is_dir() else _PACKAGE.parent / "docs"
    return {file.stem.lower(): file for file in folder.glob("*.md")}
