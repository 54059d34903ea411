"""What to cite, once: the line of a listing and the entry of a bibliography."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CONFERENCES = ("AAAI", "AISTATS", "CVPR", "ECCV", "ICCV", "ICLR", "ICML", "NeurIPS", "WACV", "Workshop")


@dataclass(frozen=True)
class Citation:
    """A published work.

    Attributes:
        key: of BibTeX, such as ``chung2023dps``.
        authors: in BibTeX's form, ``Chung, Hyungjin and Kim, Jeongsol``; ``and others`` ends an incomplete list.
        title: as published.
        year: of the publication; of the preprint where there is no other; None where it has none.
        venue: journal or conference; empty for a preprint.
        arxiv: identifier, such as ``2209.14687``; empty where there is none.
        url: of what is published nowhere else, such as a data set.
    """

    key: str
    authors: str
    title: str
    year: int | None
    venue: str = ""
    arxiv: str = ""
    url: str = ""

    def __str__(self) -> str:
        names = [author.partition(",")[0].strip() for author in self.authors.split(" and ")]
        who = names[0] if len(names) == 1 else f"{names[0]} & {names[1]}" if len(names) == 2 else f"{names[0]} et al."
        who = f"{names[0]} et al." if names[-1] == "others" else who
        return " ".join(filter(None, [who, str(self.year or ""), f"(arXiv {self.arxiv})" if self.arxiv else ""]))

    @property
    def line(self) -> str:
        """The work in one line, for a list of references."""
        where = ", ".join(
            filter(None, [self.venue, str(self.year or ""), f"arXiv {self.arxiv}" if self.arxiv else self.url])
        )
        people = [" ".join(reversed(name.strip("{}").split(", "))) for name in self.authors.split(" and ")]
        who = ", ".join("et al." if person == "others" else person for person in people)
        return f"{who}. {self.title}. {where}.".replace("..", ".")

    def bibtex(self) -> str:
        """Return the entry."""
        kind, where = ("article", "journal") if self.venue else ("misc", "")
        if any(name in self.venue for name in CONFERENCES):
            kind, where = "inproceedings", "booktitle"
        fields = {"author": self.authors, "title": f"{{{self.title}}}", "year": str(self.year or ""), where: self.venue}
        fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv" if self.arxiv else "", "url": self.url}
        lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items() if value)
        return f"@{kind}{{{self.key},\n{lines}}}\n"


def cited(parts: Iterable[object]) -> list[Citation]:
    """Return the citations of what has one, by its attribute ``citation``, each once and in order."""
    found = (getattr(part, "citation", None) for part in parts)
    return list({each.key: each for each in found if each is not None}.values())


def bibliography(citations: Iterable[Citation]) -> str:
    """Return the entries of a bibliography."""
    return "\n".join(each.bibtex() for each in citations)
