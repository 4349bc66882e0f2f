"""Text without end from a weighted grammar, whose entropy is known exactly.

A text is derived from the start symbol by drawing one rule after the other; the shipped `ENGLISH`
gives every text one derivation only. So the entropy of its texts is that of the draws, -sum p log p
for each symbol times how often it is expected, and no model's mean loss can stay below it.
"""

import bisect
import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hcviz.errors import HcvizError

Rules = Mapping[str, Sequence[tuple[float, Sequence[str]]]]
"""By symbol: the weight of each rule and what it puts in the symbol's place."""

_NOUNS = "king son man servant house city word priest people land day name heart voice brother "
_NOUNS += "father woman daughter prophet nation mountain river stone tree lamb field vessel wall"
_DO = "love hear see take send bring know fear seek keep smite answer follow gather bless judge"
_ARE = "live die weep stand rejoice dwell sleep return rise sin"
_SUCH = "great holy good evil old strong new wise poor righteous white high living wicked"
_HOW = "there again greatly always now here speedily forever"
_ODD = {"woman": "women", "man": "men", "city": "cities", "bless": "blesses"}


@dataclass(frozen=True)
class Grammar:
    """A weighted context-free grammar; what no rule rewrites is put down as it stands.

    Example:
        >>> fair = Grammar({"COIN": [(1, ["heads"]), (1, ["tails"])]}, "COIN")
        >>> round(fair.entropy / math.log(2), 6)
        1.0
    """

    rules: Rules
    start: str = "TEXT"

    @functools.cached_property
    def _shares(self) -> dict[str, list[float]]:
        """By symbol, the probabilities of its rules."""
        weights = {symbol: [weight for weight, _ in rules] for symbol, rules in self.rules.items()}
        return {symbol: [w / sum(some) for w in some] for symbol, some in weights.items()}

    def _total(self, own: Callable[[float, Sequence[str]], float]) -> float:
        """Return the expected sum, over a derivation, of what each rule brings by itself."""
        place = {symbol: number for number, symbol in enumerate(self.rules)}
        counts, brings = np.zeros((len(place), len(place))), np.zeros(len(place))
        for symbol, rules in self.rules.items():
            for share, (_, right) in zip(self._shares[symbol], rules, strict=True):
                brings[place[symbol]] += share * own(share, right)
                for part in right:
                    if part in place:
                        counts[place[symbol], place[part]] += share
        if np.abs(np.linalg.eigvals(counts)).max() >= 1:
            raise HcvizError(
                f"The grammar of {self.start!r} does not end: a symbol brings itself once or more "
                "in the mean. Give its recursive rules less weight."
            )
        return float(np.linalg.solve(np.eye(len(place)) - counts, brings)[place[self.start]])

    @functools.cached_property
    def entropy(self) -> float:
        """Nats in a text, in the mean; exact where no text has two derivations."""
        return self._total(lambda share, right: -math.log(share))

    def expected(self, cost: Callable[[str], float]) -> float:
        """Return the mean over texts of the sum of a cost of their words."""
        return self._total(lambda share, right: sum(cost(p) for p in right if p not in self.rules))

    def floor(self, count_tokens: Callable[[str], int]) -> float:
        """Return the least mean loss in nats per token, the mark after each text included.

        Blocks cut texts, and what comes before a block is not seen: a model that knows the grammar
        stays above it by a few nats a block.
        """
        return self.entropy / (self.expected(count_tokens) + 1)

    def texts(self, count: int, seed: int = 0) -> Iterator[tuple[str, float]]:
        """Yield texts and the nats of each; another seed gives fresh ones.

        Example:
            >>> next(iter(ENGLISH.texts(1)))[0][:24]
            ' the words keep a river.'
        """
        draw = random.Random(seed)
        sums = {symbol: list(itertools.accumulate(p)) for symbol, p in self._shares.items()}
        for _ in range(count):
            words, nats, left = [], 0.0, [self.start]
            while left:
                symbol = left.pop()
                if symbol not in self.rules:
                    words.append(symbol)
                    continue
                at = bisect.bisect(sums[symbol][:-1], draw.random())
                nats -= math.log(self._shares[symbol][at])
                left += reversed(self.rules[symbol][at][1])
            yield "".join(words), nats


def _english() -> Rules:
    """Sentences whose verbs agree with their subjects over nested clauses; rare words by Zipf."""

    def zipf(words: str, end: str = "") -> list[tuple[float, list[str]]]:
        forms = (_ODD.get(word, word + end) if end else word for word in words.split())
        return [(1 / (3 + rank), [f" {form}"]) for rank, form in enumerate(forms)]

    rules = {
        "TEXT": [(1, ["SENTENCE"]), (7, ["SENTENCE", "TEXT"])],
        "SENTENCE": [(3, ["NP-one", "VP-one", "."]), (2, ["NP-many", "VP-many", "."])],
        "ANY": [(3, ["NP-one"]), (2, ["NP-many"])],
        "CLAUSE": [(3, ["NP-one", "DO-one"]), (2, ["NP-many", "DO-many"])],
        "SUCH": zipf(_SUCH),
        "HOW": zipf(_HOW),
    }
    for number, noun, verb, articles in (
        ("one", "", "s", " the, a, every, this"),
        ("many", "s", "", " the, all, many, these"),
    ):
        rules |= {
            f"NP-{number}": [
                (5, [f"DET-{number}", f"N-{number}"]),
                (2, [f"DET-{number}", "SUCH", f"N-{number}"]),
                (1, [f"DET-{number}", f"N-{number}", " that", f"VP-{number}"]),
                (1, [f"DET-{number}", f"N-{number}", " whom", "CLAUSE"]),
            ],
            f"VP-{number}": [
                (4, [f"DO-{number}", "ANY"]),
                (2, [f"ARE-{number}"]),
                (1, [f"ARE-{number}", "HOW"]),
            ],
            f"DET-{number}": [(4 - at, [word]) for at, word in enumerate(articles.split(","))],
            f"N-{number}": zipf(_NOUNS, noun),
            f"DO-{number}": zipf(_DO, verb),
            f"ARE-{number}": zipf(_ARE, verb),
        }
    return rules


ENGLISH = Grammar(_english())
"""The grammar of the corpus ``grammar``."""
