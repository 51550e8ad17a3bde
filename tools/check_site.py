"""Check the built documentation: every link inside leads somewhere, and no page needs a network.

    python tools/check_site.py docs/_build/html

Every ``href`` and ``src`` of every page must name a file of the site, and its fragment an ``id`` on
that page. Scripts, styles, images and fonts must come from the site itself, in style sheets, too;
links that a reader may follow to other sites are left alone.
"""

import argparse
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a page fetches by itself, by tag; an <a> or a rel="canonical" fetches nothing.
_FETCHED = {"script": "src", "img": "src", "source": "src", "iframe": "src", "video": "src"}
_FETCHED_RELATIONS = {"stylesheet", "preload", "icon", "modulepreload", "search"}
_IN_STYLES = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])([^"')\s]+)""")


class Page(HTMLParser):
    """What a page links to, fetches, and can be linked at."""

    def __init__(self, path):
        super().__init__()
        self.links, self.fetched, self.anchors = [], [], {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        """Note the addresses and names of a tag."""
        found = dict(attributes)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"] or "")
        elif tag == "link" and _FETCHED_RELATIONS & set((found.get("rel") or "").split()):
            self.fetched.append(found.get("href") or "")
        elif tag in _FETCHED and found.get(_FETCHED[tag]):
            self.fetched.append(found[_FETCHED[tag]])


def problems(root):
    """List what is wrong with the site in the folder `root`."""
    # The theme keeps templates beside its scripts.
    files = [p for p in sorted(root.rglob("*.html")) if p.relative_to(root).parts[0] != "_static"]
    pages = {path.resolve(): Page(path) for path in files}
    if not pages:
        return [f"{root}: there is no page"]
    found = []
    for path, page in pages.items():
        name = path.relative_to(root)
        found += [f"{name}: fetches {u}" for u in page.fetched if _is_elsewhere(u)]
        for address in (*page.links, *page.fetched):
            if address.startswith("data:"):
                continue
            if not _is_elsewhere(address) and not _leads_somewhere(address, path, root, pages):
                found.append(f"{name}: {address} leads nowhere")
    for path in sorted(root.rglob("*.css")):
        addresses = _IN_STYLES.findall(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(root)}: fetches {u}" for u in addresses if _is_elsewhere(u)]
    return list(dict.fromkeys(found))


def _is_elsewhere(address):
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def _leads_somewhere(address, path, root, pages):
    parts = urlsplit(address)
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(root) or not target.is_file():
        return False
    return target not in pages or unquote(parts.fragment) in pages[target].anchors


def main():
    """Print what is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the built pages")
    root = parser.parse_args().folder.resolve()
    if not root.is_dir():
        parser.error(f"{root} is no folder")
    found = problems(root)
    print("\n".join(found) or f"{root}: every link leads somewhere, and nothing is fetched")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
