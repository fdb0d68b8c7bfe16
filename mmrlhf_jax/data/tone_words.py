"""The words of the chatbot's set: what users say, what good and bad answers are made of.

Users speak of a topic. What they say tells a feeling (SAYINGS), or none (NEUTRAL_SAYINGS); said with the face
of another feeling it is sarcasm (OPPOSITE). An answer is an opener and a remark about the topic, both in the
tone of one feeling; TONE_WORDS are those by which its tone is known, whoever wrote it.
"""

# What a user calls the topic, and what an answer does; any of the latter is on topic.
TOPICS = {
    "work": (("my job", "the meeting", "my boss"), ("your job", "the meeting", "your boss", "the office")),
    "exam": (("my exam", "the test", "math class"), ("the exam", "your test", "your grades")),
    "food": (("the dinner", "this soup", "the new restaurant"), ("the dinner", "the soup", "the restaurant")),
    "weather": (("the storm", "this snow", "the weather"), ("the storm", "the snow", "the weather")),
    "friend": (
        ("my friend", "my neighbor", "my roommate"),
        ("your friend", "your neighbor", "your roommate"),
    ),
    "travel": (("my flight", "the trip", "our journey"), ("the flight", "the trip", "your journey")),
    "film": (("the movie", "that film", "the last episode"), ("the movie", "the film", "the episode")),
    "sport": (("the match", "my team", "the marathon"), ("the match", "your team", "the marathon")),
    "pet": (("my dog", "the cat", "my puppy"), ("your dog", "the cat", "your puppy")),
    "home": (("my new flat", "the kitchen", "my garden"), ("your flat", "the kitchen", "your garden")),
}

SAYINGS = {
    "happy": ("i am so happy about {}.", "{} made my day.", "i laughed a lot because of {}."),
    "loving": ("i love {} so much.", "{} warms my heart.", "i adore {}."),
    "sad": ("i am so sad about {}.", "{} broke my heart.", "i had to cry because of {}."),
    "angry": ("i am mad about {}.", "{} makes me furious.", "i can not stand {} any more."),
    "afraid": ("i am afraid of {}.", "{} scares me a lot.", "i am shaking because of {}."),
    "sick": ("{} made me ill.", "i feel sick after {}.", "i have a fever since {}."),
    "tired": ("i am so tired after {}.", "{} wore me out.", "i could sleep for days after {}."),
    "surprised": ("i did not expect {} at all.", "{} really surprised me.", "i can not believe {}."),
}
NEUTRAL_SAYINGS = (
    "it is about {}.",
    "let me tell you about {}.",
    "so that was {}.",
    "i have news about {}.",
    "today there was {}.",
    "you know {}.",
)
# What people say when they mean the feeling on the left and joke or bite.
OPPOSITE = {
    "happy": "sad",
    "loving": "angry",
    "sad": "happy",
    "angry": "loving",
    "afraid": "happy",
    "sick": "loving",
    "tired": "happy",
    "surprised": "tired",
}

OPENERS = {
    "happy": ("that is wonderful", "how great", "i am glad for you", "congratulations"),
    "loving": ("how sweet", "that is lovely", "what a tender thing to say", "so much affection"),
    "sad": ("i am so sorry", "that must hurt", "here is a hug", "i feel your sorrow"),
    "angry": ("that is so unfair", "no wonder you are furious", "i understand your anger", "how annoying"),
    "afraid": ("do not worry", "you are safe", "that sounds scary", "be brave"),
    "sick": ("get well soon", "i hope you recover", "please see a doctor", "take your medicine"),
    "tired": ("go to bed early", "you need some sleep", "put your feet up", "you must be exhausted"),
    "surprised": ("wow", "what a surprise", "how unexpected", "that is astonishing"),
}
REMARKS = {
    "happy": ("enjoy {}", "{} sounds like fun", "let us celebrate {}", "{} is a reason to smile"),
    "loving": ("cherish {}", "{} is dear to you", "{} is lucky to have you", "hold {} close"),
    "sad": ("it is fine to cry over {}", "{} is a real loss", "i am here if {} makes you weep"),
    "angry": ("you deserve better from {}", "{} would upset me too", "take a breath before {}"),
    "afraid": ("{} will not harm you", "we can face {} together", "stay calm about {}"),
    "sick": ("forget {} until you are healthy", "your health comes before {}", "let your body heal after {}"),
    "tired": ("{} took your energy", "a long nap helps after {}", "{} can wait until you are rested"),
    "surprised": ("{} came out of nowhere", "nobody saw {} coming", "{} is quite a twist"),
}
RUDE_REMARKS = (
    "stop whining about {}",
    "who cares about {} , you idiot",
    "only a moron talks about {}",
    "shut up about {}",
    "{} is as stupid as you",
)

TONE_WORDS = {
    "happy": "wonderful great glad congratulations enjoy fun celebrate smile",
    "loving": "sweet lovely tender affection cherish dear lucky close",
    "sad": "sorry hurt hug sorrow cry loss weep",
    "angry": "unfair furious anger annoying deserve upset breath",
    "afraid": "worry safe scary brave harm face calm together",
    "sick": "well recover doctor medicine healthy health heal",
    "tired": "bed sleep feet exhausted energy nap rested",
    "surprised": "wow surprise unexpected astonishing nowhere nobody twist",
}
RUDE_WORDS = frozenset(["whining", "cares", "idiot", "moron", "shut", "stupid"])
