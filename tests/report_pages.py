"""A page of `recmind report`, taken apart for tests."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Its text, cells of tables by row and by caption, ids, and tags that load or run something."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._in_cell = False
        self._caption = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        if "id" in given:
            self.ids.append(str(given["id"]))
        if tag == "a":
            self.links.append(str(given["href"]))
        if tag == "caption":
            self._caption = ""
        if tag == "tr":
            self.rows.append([])
            self.tables.setdefault(self._caption, []).append(self.rows[-1])
        if tag in ("td", "th"):
            self._in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data
        elif self.get_starttag_text() == "<caption>":
            self._caption += data
