"""Words of synthetic texts: of each of sixteen trades, and neutral ones."""

TRADES: dict[str, tuple[str, ...]] = {
    trade: tuple(words.split())
    for trade, words in {
        "coffee": "espresso roast beans grinder arabica latte brew filter mug crema",
        "cycling": "bicycle saddle derailleur helmet tyre chain pedal gravel handlebar spokes",
        "gardening": "tomato compost seedling trowel orchid pruning mulch greenhouse bulb soil",
        "astronomy": "telescope nebula planet eyepiece comet galaxy orbit lunar stargazing lens",
        "baking": "sourdough flour oven pastry yeast croissant whisk cinnamon tart dough",
        "music": "guitar violin drum melody amplifier piano chord jazz vinyl microphone",
        "sailing": "sailboat anchor mast rudder harbour compass rigging tide deck regatta",
        "photography": "camera tripod shutter aperture portrait darkroom flash zoom negative print",
        "fishing": "trout lure reel angler bait river hook salmon waders net",
        "knitting": "wool needles yarn sweater crochet scarf stitch merino pattern mittens",
        "chess": "bishop gambit endgame rook checkmate opening knight tournament pawn clock",
        "skincare": "moisturiser serum sunscreen cleanser shampoo lotion lipstick vitamin balm mask",  # noqa: E501
        "camping": "tent lantern campfire rucksack hammock stove trail sleeping canteen forest",
        "robotics": "robot sensor motor circuit soldering drone battery servo gearbox wiring",
        "horror": "ghost vampire haunted werewolf crypt midnight witch scream curse zombie",
        "tennis": "racket serve volley backhand court umpire grip baseline strings trainer",
    }.items()
}
_NEUTRAL = """
    classic little modern grand northern quiet bright small royal simple golden early travel
    family master daily winter summer city island red blue green silver black white light heavy
    swift gentle first second complete compact deluxe original local vintage premium essential
    handmade portable studio garden mountain coastal weekend autumn
"""
PLAIN: tuple[str, ...] = tuple(_NEUTRAL.split())
