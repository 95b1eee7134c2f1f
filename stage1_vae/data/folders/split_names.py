"""Names of folders that are splits, as people write them.

A name is taken apart into words; one of them names the split and the rest is what it is the split of: `train`,
`Training`, `test_set`, `val2017`, `trainA` and `testB` (domains A and B), `seg_train`. Words that say nothing (`set`,
`images`) and numbers are passed over. Names are splits only together: `train` beside `bus` and `car` is a vehicle.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

from stage1_vae.data.images import DataError
from stage1_vae.data.splits import split_in

EMPTY = {
    *("set", "sets", "data", "dataset", "split", "samples"),
    *("image", "images", "img", "imgs", "photos", "pictures", "png"),
}
"""Words that say nothing."""


def words_of(name: str) -> tuple[str, str] | None:
    """(split, rest) that a folder's name says, the rest in its own letters; None for no split, or several."""
    split, words = split_in(name)
    rest = [word for word in words if word.lower() not in EMPTY and not word.isdecimal()]
    return (split, "_".join(rest)) if split else None


def splits_of(names: Iterable[str], where: str) -> dict[str, tuple[str, str]]:
    """Folder -> (split, domain) for those of `names` that are splits; empty where none are.

    The domain is empty unless there are several, each with its own splits.

    Raises:
        DataError: two folders are the same split.
    """
    domains: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted(names):
        if words := words_of(name):
            domains[words[1].lower()][words[0]].append(name)
    whole = sorted(rest for rest, splits in domains.items() if "train" in splits and len(splits) > 1)
    if "" in whole:
        whole = [""]
    elif not whole and len(domains) > 1 and all(len(d) == 1 and set(domains[d]) == {"train"} for d in domains):
        whole = sorted(domains)  # trainA and trainB by themselves
    for rest in whole:
        for split, folders in domains[rest].items():
            if len({re.sub(r"\d+", "", folder) for folder in folders}) > 1:
                raise DataError(
                    f"{where} has {folders[0]}/ and {folders[1]}/ for the {split} split: keep one, or set "
                    "data.splits=none if they are classes"
                )
    several = len(whole) > 1
    named = {folder: words_of(folder) for rest in whole for folders in domains[rest].values() for folder in folders}
    return {folder: (words[0], words[1] if several else "") for folder, words in named.items() if words}
