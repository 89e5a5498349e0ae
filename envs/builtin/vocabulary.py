"""Short, common words for the built-in environments, each in one kind only."""

from __future__ import annotations

KINDS: dict[str, tuple[str, ...]] = {
    "animal": ("cat", "dog", "cow", "pig", "fox", "bear", "lion", "wolf", "horse", "sheep", "goat", "mouse", "rabbit", "tiger", "frog"),
    "colour": ("red", "blue", "green", "yellow", "pink", "brown", "black", "white", "grey", "purple"),
    "food": ("bread", "rice", "soup", "cake", "cheese", "apple", "pear", "egg", "butter", "honey", "pasta", "salad"),
    "body": ("hand", "foot", "arm", "leg", "head", "nose", "ear", "eye", "knee", "neck"),
    "clothes": ("hat", "shoe", "coat", "shirt", "sock", "dress", "glove", "scarf", "belt", "boot"),
    "weather": ("rain", "snow", "wind", "sun", "cloud", "storm", "fog", "frost"),
    "vehicle": ("car", "bus", "train", "boat", "bike", "truck", "plane", "ship"),
    "furniture": ("bed", "chair", "table", "desk", "lamp", "sofa", "shelf", "bench"),
    "family": ("mother", "father", "sister", "brother", "aunt", "uncle", "cousin", "daughter"),
}

WORDS: tuple[str, ...] = (
    *(word for words in KINDS.values() for word in words),
    *("door", "tree", "river", "stone", "book", "key", "cup", "road", "house", "garden", "window", "paper", "star", "moon", "ball", "bell"),
)

NAMES: tuple[str, ...] = (
    "Anna",
    "Ben",
    "Carl",
    "Dora",
    "Emma",
    "Fred",
    "Gina",
    "Hugo",
    "Ivan",
    "Jane",
    "Lena",
    "Mark",
    "Nina",
    "Otto",
    "Paul",
)

OPPOSITES: tuple[tuple[str, str], ...] = (
    *(("hot", "cold"), ("big", "small"), ("up", "down"), ("left", "right"), ("old", "young"), ("fast", "slow"), ("high", "low")),
    *(("hard", "soft"), ("wet", "dry"), ("full", "empty"), ("open", "closed"), ("light", "dark"), ("good", "bad"), ("happy", "sad")),
    *(("rich", "poor"), ("strong", "weak"), ("clean", "dirty"), ("near", "far"), ("early", "late"), ("loud", "quiet"), ("thick", "thin")),
    *(("day", "night"), ("first", "last"), ("true", "false"), ("win", "lose"), ("buy", "sell"), ("push", "pull"), ("start", "stop")),
    *(("inside", "outside"), ("north", "south"), ("east", "west"), ("above", "below"), ("before", "after"), ("long", "short")),
    *(("love", "hate"), ("sweet", "sour"), ("easy", "difficult"), ("cheap", "expensive"), ("war", "peace"), ("question", "answer")),
)
