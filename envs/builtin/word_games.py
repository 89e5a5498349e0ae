"""One-turn games about words, lists and small records."""

from __future__ import annotations

import json
from random import Random

from perdure.envs.builtin.game import OneTurn, check_option
from perdure.envs.builtin.vocabulary import KINDS, NAMES, OPPOSITES, WORDS


class FirstWord(OneTurn):
    """The first word of a list."""

    instructions = "Reply with only the first word."

    def __init__(self, words: int = 4) -> None:
        super().__init__()
        self.words = check_option("words", words, 2, 12)

    def question(self, rng: Random) -> tuple[str, str]:
        words = rng.sample(WORDS, self.words)
        return " ".join(words), words[0]


class LastWord(OneTurn):
    """The last word of a list."""

    instructions = "Reply with only the last word."

    def __init__(self, words: int = 4) -> None:
        super().__init__()
        self.words = check_option("words", words, 2, 12)

    def question(self, rng: Random) -> tuple[str, str]:
        words = rng.sample(WORDS, self.words)
        return " ".join(words), words[-1]


class KthWord(OneTurn):
    """The word at a given place of a list."""

    instructions = "Reply with only the word at the given place."

    def __init__(self, words: int = 3) -> None:
        super().__init__()
        self.words = check_option("words", words, 2, 9)

    def question(self, rng: Random) -> tuple[str, str]:
        words = rng.sample(WORDS, self.words)
        place = rng.randrange(self.words)
        return f"{place + 1}: {' '.join(words)}", words[place]


class CopyWord(OneTurn):
    """The same word or words again: easy, and what other word games are likely to damage."""

    instructions = "Reply with only the same text."
    max_tokens = 16

    def __init__(self, words: int = 2) -> None:
        super().__init__()
        self.words = check_option("words", words, 2, 6)

    def question(self, rng: Random) -> tuple[str, str]:
        text = " ".join(rng.sample(WORDS, self.words))
        return text, text


class SwapWords(OneTurn):
    """The words of a short list in reverse order."""

    instructions = "Reply with only the words in reverse order."
    max_tokens = 16

    def __init__(self, words: int = 2) -> None:
        super().__init__()
        self.words = check_option("words", words, 2, 6)

    def question(self, rng: Random) -> tuple[str, str]:
        words = rng.sample(WORDS, self.words)
        return " ".join(words), " ".join(reversed(words))


class CountWords(OneTurn):
    """How many words a list has."""

    instructions = "Reply with only the number of words."
    max_tokens = 4

    def __init__(self, most: int = 5) -> None:
        super().__init__()
        self.most = check_option("most", most, 2, 9)

    def question(self, rng: Random) -> tuple[str, str]:
        count = rng.randint(1, self.most)
        return " ".join(rng.sample(WORDS, count)), str(count)


class Membership(OneTurn):
    """Whether a word is in a list."""

    instructions = "Is the first word in the list? Reply with only yes or no."
    max_tokens = 4

    def __init__(self, words: int = 3) -> None:
        super().__init__()
        self.words = check_option("words", words, 2, 9)

    def question(self, rng: Random) -> tuple[str, str]:
        *words, other = rng.sample(WORDS, self.words + 1)
        inside = rng.random() < 0.5
        return f"{rng.choice(words) if inside else other}: {' '.join(words)}", "yes" if inside else "no"


class Opposite(OneTurn):
    """The opposite of a word, out of a few choices."""

    instructions = "Reply with only the word that is the opposite of the first word."

    def __init__(self, choices: int = 3) -> None:
        super().__init__()
        self.choices = check_option("choices", choices, 2, 6)

    def question(self, rng: Random) -> tuple[str, str]:
        (word, answer), *others = (rng.sample(pair, 2) for pair in rng.sample(OPPOSITES, self.choices))
        choices = [answer, *(other for other, _ in others)]
        rng.shuffle(choices)
        return f"{word}: {' '.join(choices)}", answer


class OddOneOut(OneTurn):
    """The word of another kind than the rest."""

    instructions = "Reply with only the word that does not belong."

    def __init__(self, words: int = 4) -> None:
        super().__init__()
        self.words = check_option("words", words, 3, 7)

    def question(self, rng: Random) -> tuple[str, str]:
        kind, other_kind = rng.sample(sorted(KINDS), 2)
        odd = rng.choice(KINDS[other_kind])
        words = [odd, *rng.sample(KINDS[kind], self.words - 1)]
        rng.shuffle(words)
        return " ".join(words), odd


class Initials(OneTurn):
    """The first letters of a few words."""

    instructions = "Reply with only the first letter of each word."

    def __init__(self, words: int = 2) -> None:
        super().__init__()
        self.words = check_option("words", words, 2, 5)

    def question(self, rng: Random) -> tuple[str, str]:
        words = rng.sample(WORDS, self.words)
        return " ".join(words), " ".join(word[0] for word in words)


class JsonField(OneTurn):
    """The value of one field of a small JSON object."""

    instructions = "Reply with only the value of the field."

    def __init__(self, fields: int = 2) -> None:
        super().__init__()
        self.fields = check_option("fields", fields, 2, 4)

    def question(self, rng: Random) -> tuple[str, str]:
        pet, colour = rng.choice(KINDS["animal"]), rng.choice(KINDS["colour"])
        record = {"name": rng.choice(NAMES), "age": rng.randint(10, 99), "pet": pet, "colour": colour}
        kept = rng.sample(sorted(record), self.fields)
        field = rng.choice(kept)
        return f"{field}: {json.dumps({key: record[key] for key in kept})}", str(record[field])
