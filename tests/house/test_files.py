"""No file knows the machine or the network it was written on."""

from __future__ import annotations

import re

from tests.house.project import ROOT, files, text

# In parts, so that this file does not find itself.
MACHINE_PATHS = re.compile("|".join(rf"(?<![\w.]){path}" for path in ("/" + "work/", "/" + "root/", "/" + "home/")))
REGISTRY_HOSTS = re.compile(
    "|".join(
        re.escape(host)
        for host in (
            "pypi" + ".org",
            "pythonhosted" + ".org",
            "registry." + "npmjs",
            "npmjs" + ".com",
            "deb." + "debian.org",
            "proxy." + "golang.org",
            "crates" + ".io",
        )
    )
)


def _found(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number} {line.strip()[:100]}"
        for path in files()
        for number, line in enumerate(text(path).splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_path_of_one_machine() -> None:
    """Paths are relative, from the environment, or the system's own (/etc, /usr, /var, /tmp, /run)."""
    assert [] == _found(MACHINE_PATHS)


def test_no_file_names_a_package_registry() -> None:
    """Packages come through the ordinary clients, by name; where from is the machine's business."""
    assert [] == _found(REGISTRY_HOSTS)


def test_every_link_between_pages_leads_somewhere() -> None:
    """Each relative link of a Markdown page names a file that is there."""
    broken = [
        f"{page}: {target}"
        for page in files()
        if page.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text(page))
        if "://" not in target and not (ROOT / page.parent / target).exists()
    ]
    assert [] == broken
