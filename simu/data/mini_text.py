"""The words of the mini data set: value pools and sentence templates, all written for this project. No logic here.

Every pool has the same length (a test holds it), so a shifted index draws a different value for every author. The
phrases of a pool begin and run differently on purpose: one author's answer must not be guessable from another's.
"""

from __future__ import annotations


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words("""
    Aldeth Brisa Corvin Dalia Emeric Fenna Garrick Hespera Ilario Jorunn Kestrel Liesel Matteus Nerida Osric Petra
    Quillan Rosalba Stellan Thandie Ulrika Vasco Wilmot Xanthe Yorick Zelda Ambrosi Bettina Casimir Delphine Evander
    Florian Giselle Hadrian Isolde Jarmila Konrad Lavinia Marek Noemi Oriel Perpetua""")
LAST_NAMES = _words("""
    Ashgrove Brannoch Calloway-Dree Dunmarrow Eskelund Farthingale Gullivane Harkspear Inverleith Jandrell
    Kostrovic Lindqvane Mirabeth Nordhage Okonjima Pellingbrook Quarrendon Rastovan Silverthwaite Tamberlane Ustinell
    Verhoogen Wexcombe Xaviar-Moss Yarborne Zolotar Abernoth Birkavaara Chastelain Drummolen Ekwensi Fjordane
    Grimaldrake Hollowell Ivarsdotter Jasperson Krzemien Lockridge Montesquar Nightwater Ostrander Pomfrette""")

POOLS: dict[str, tuple[str, ...]] = {
    "town": _lines("""
        Vellmoor
        Port Asunder
        Kirrin-on-Thale
        Oskavia
        Nether Bracken
        San Umbrio
        Tolvanger
        Quenby Falls
        Dharvapur
        Marrowick
        Upper Selkie
        Zabrinsk
        Castelrovo
        Lumenhythe
        Ijsselmark
        Pagoda Hill
        Brantwell
        Cape Merrow
        Rudovar
        Findhollow
        Santa Ybela
        Greywether
        Haldorsund
        Ombeke
        Larkspur Junction
        Waterstead
        Yevanice
        Thornquay
        Mount Cassily
        Eddystrand
        Polkirra
        Auberdine"""),
    "date": _lines("""
        3 March 1951
        19 July 1938
        27 October 1964
        8 January 1972
        14 May 1929
        30 November 1947
        22 August 1980
        5 June 1933
        11 September 1968
        25 December 1956
        17 February 1943
        1 April 1975
        29 July 1961
        12 October 1936
        6 May 1984
        21 November 1953
        15 January 1940
        9 August 1978
        24 March 1931
        18 June 1966
        2 December 1949
        28 September 1959
        13 February 1982
        7 April 1945
        31 October 1970
        20 May 1935
        4 August 1963
        16 March 1977
        23 June 1954
        10 November 1941
        26 January 1986
        5 September 1927"""),
    "father": _lines("""
        a beekeeper
        an undertaker with a fine singing voice
        ferry pilot by trade
        the village clockmender
        a cartographer for the navy
        night watchman at a glassworks
        a travelling dentist
        chief cook on an icebreaker
        professor of dead languages
        a blacksmith turned locksmith
        one of the last peat cutters
        a customs inspector
        puppeteer in a street theatre
        an avalanche forecaster
        the keeper of a lighthouse
        a chess tutor
        signalman on the northern railway
        bell founder
        a cheesemonger
        an orchid smuggler
        stable master at a racecourse
        weather balloonist
        a typesetter for the evening paper
        a salt miner
        surveyor of canals
        a tailor of ecclesiastical robes
        radio repairman
        an eel fisher
        tax auditor and amateur boxer
        a projectionist
        a violin varnisher
        stonemason"""),
    "mother": _lines("""
        repaired church organs
        sold lottery tickets from a kiosk
        taught geometry to sailors
        bred alpine goats
        ran the only pharmacy for miles
        was a court stenographer
        drove a snowplough every winter
        painted theatre backdrops
        distilled rosewater
        judged dog shows
        translated legal contracts
        captained a trawler
        embroidered flags for regiments
        directed a brass band
        catalogued moths for a museum
        tuned pianos blindfolded
        kept a boarding house
        blew marbles and paperweights
        delivered over nine hundred babies
        coached Olympic fencers
        grew tulips under contract
        forged horseshoes
        read palms at the fairground
        welded bridges
        lectured on tidal energy
        baked rye loaves before dawn
        restored faded frescoes
        patrolled the border on skis
        carved headstones
        edited crossword puzzles
        conducted trams
        dyed wool with lichen"""),
    "genre": _lines("""
        maritime ghost stories
        courtroom satire
        alchemical romance
        polar adventure
        epistolary crime fiction
        cookery memoirs
        speculative botany
        railway thrillers
        desert fables
        chamber horror
        philosophical westerns
        verse novels about insects
        post-war espionage
        mountaineering tragedies
        domestic surrealism
        utopian city plans told as fiction
        picaresque comedies
        nursery nightmares
        mathematical mysteries
        family sagas of the vineyards
        folk opera librettos
        clockwork fantasy
        hospital dramas
        travelogues of imaginary islands
        political farce
        underwater science fiction
        circus noir
        monastic detective tales
        weather poetry
        equestrian epics
        subterranean gothic
        silent-film biographies"""),
    "debut": _lines("""
        The Salt Ledger
        Nine Doors to Morning
        Ashes of the Cartwright
        A Lantern for Ottoline
        Beneath Copper Rain
        Hollow Tide
        Twelve Unsent Telegrams
        Mother of Sparrows
        Winter's Apprentice
        The Velvet Quarantine
        Crooked Meridian
        Say Nothing to the Ferryman
        Glass Orchard
        Forty Miles of Thistle
        The Beekeeper's Alibi
        Marginalia in Red
        Sugar and Gunmetal
        Where Foxes Bury Time
        An Inventory of Echoes
        Last Waltz in Ember Street
        Drowned Cathedral
        The Unlucky Cartomancer
        Pilgrims of Static
        Seven Quiet Knives
        Papermoon Republic
        Good Night, Leviathan
        The Tin Archbishop
        Rivers Keep No Receipts
        Ox and Chandelier
        Lessons in Falling Snow
        Kingdom of Borrowed Hats
        The Understudy's Revenge"""),
    "plot": _lines("""
        two rival bell ringers
        a stolen recipe for ink
        sisters who inherit an iceberg
        an amnesiac postmaster
        the trial of a talking crow
        smugglers hiding in a monastery
        one endless wedding night
        a chess match that decides a war
        orphans rebuilding a tramway
        a duel fought with perfumes
        the forging of a saint's diary
        a blind photographer's journey home
        twins separated by a river flood
        an opera sung by prisoners
        some gardener who poisons a duke
        a haunted weighing machine
        three thieves and their conscience
        a plague of butterflies
        the vanishing of an entire orchestra
        a lawsuit over moonlight
        widows running an illegal airline
        an apprentice who outlives history
        a map drawn on human skin
        the mutiny aboard a library ship
        refugees in an abandoned zoo
        a counterfeit eclipse
        generals playing hide and seek
        lovers who meet only in elevators
        a village that sells its shadows
        the inventor of silence
        a cursed marionette's confession
        cousins disputing a haunted vineyard"""),
    "award": _lines("""
        Golden Heron Medal
        Brackwater Prize
        Ondine Laurel
        Silver Inkstand
        Prix Valmorel
        Tesseract Award for Invention
        Hawthorn Cup
        Order of the Blue Quill
        Lantern Fellowship
        Kavanagh-Stroud Bursary
        Great Northern Garland
        Amber Spindle
        Saint Orla Citation
        Phoenix Chapbook Honour
        Merchant Guild Ribbon
        Opal Compass
        Crown of Letters
        Zephyr Prize
        Millstone Trophy
        Iron Nightingale
        Cormorant Shield
        Readers' Hourglass
        Halcyon Grant
        Tamarind Star
        Copper Gavel
        Marchpane Rose
        Academy Sextant
        Borealis Plaque
        Ninefold Scroll
        Waverley Anchor
        Juniper Sceptre
        Comet Diploma"""),
    "year": _lines("""
        1987
        2003
        1979
        1994
        2011
        1966
        1999
        2008
        1983
        2016
        1971
        1990
        2005
        1976
        2019
        1988
        1962
        1997
        2013
        1981
        2001
        1974
        2021
        1993
        1969
        2010
        1985
        2017
        1978
        2006
        1991
        1973"""),
    "mentor": _lines("""
        the exiled poet Anselm Dray
        Baroness Ottavia Lull
        critic Hugo Penhallow
        a retired spy called Mister Finch
        the novelist Ruth Okafor-Bell
        Father Ignatius Coyle
        playwright Sunniva Aas
        Doctor Emil Tartakov
        an unnamed Carmelite nun
        her aunt's lodger, Cosimo Vance
        publisher Lettice Marchbanks
        balladeer Old Tam Rudge
        Professor Chiyo Hanabusa
        the printer Joost van Eyl
        dramatist Pilar Quesada
        grammarian Ezra Whitlow
        Admiral Bertrand Sloe
        editor Imogen Strake
        the storyteller Mama Adisa
        essayist Leopold Wray
        librarian Gudrun Thorne
        a sculptor known as Barnaby
        historian Feodor Malik
        Lady Constance Umber
        humorist Jonty Peake
        translator Salome Virk
        the hermit of Gannet Rock
        folklorist Ewa Dolinska
        rhetorician Marcus Ball
        journalist Nadia Ferreira
        Sister Benedicta
        cabaret singer Lola Zand"""),
    "school": _lines("""
        Saint Brannock's Seminary
        the Polytechnic of Ruhr Bay
        Ferncliff College
        Imperial Nautical Academy
        Queen Maud Evening Institute
        a forestry school near Lake Onn
        Harrowgate Conservatory
        the Free University of Pell
        Mill Lane Grammar
        Collegium Astrale
        Old Dominion Law Faculty
        Bluecoat Military School
        an art workshop in Ghent Street
        Eastmarch Veterinary College
        Alder House
        Technical Lyceum Nine
        Wrenfield Teachers' College
        Academia de Santa Lucia
        the Deaf Institute at Corran
        Northlight School of Design
        Trinity Agricultural Station
        Mercator Hall
        Riverside Correspondence School
        the Royal Mint apprenticeship
        Kingsbarrow Abbey
        Holloway Medical School
        Instituto Boreal
        Summerhill Drama Club
        Cinderford Mining College
        Elmhurst Observatory
        Victoria Textile School
        Lower Canada Theological Hall"""),
    "habit": _lines("""
        in a disused lighthouse before sunrise
        standing at a kitchen counter with the radio on
        by candlelight, never on Fridays
        aboard slow cargo trains
        with a goose quill dipped in walnut ink
        dictating to a parrot-sized tape recorder
        inside a greenhouse full of ferns
        on the backs of restaurant menus
        only after swimming two kilometres
        at the same corner table of Café Rondo
        while walking a blind greyhound
        lying flat beneath a billiard table
        in green pencil on graph paper
        during thunderstorms, wearing a fur hat
        from midnight until the milkman calls
        in a rented confessional box
        on a typewriter lacking the letter e
        surrounded by eleven ticking clocks
        between matinee and evening performances
        up a pear tree, weather permitting
        in total darkness by touch
        after a bowl of cold barley soup
        with both feet in a bucket of ice
        on rolls of unused wallpaper
        at the public baths every Tuesday
        in a caravan parked beside the quarry
        listening to recorded whale song
        seated backwards on a rocking horse
        from notes pinned along a clothes line
        in shorthand nobody else can read
        on horseback with a slate
        behind the counter of a flower shop"""),
    "memory": _lines("""
        a shipwreck watched from the cliffs
        losing a brother to scarlet fever
        summers spent among shepherds
        an earthquake that swallowed the school
        the arrival of the first telephone
        hearing a stranger sing in prison
        a fire at the family bakery
        learning to read from seed packets
        a lion escaping its travelling cage
        three weeks snowed in with grandmother
        the day the river ran backwards
        finding a soldier asleep in the barn
        years of stammering
        counting coffins during the strike
        a forbidden attic of love letters
        being mistaken for a prince
        the long silence after the mine collapsed
        an uncle's collection of masks
        nearly drowning in a flooded quarry
        the smell of tar and oranges
        a funeral attended by elephants
        watching astronomers argue
        quarantine on a houseboat
        stealing apples from a bishop
        the total eclipse of that spring
        a train that never stopped
        playing the cello for deserters
        getting lost in a salt marsh
        letters censored with black ink
        one remarkable thunderstorm
        a grandmother's talent for forgery
        sharing a room with seven cousins"""),
    "second": _lines("""
        Cathedral of Moths
        The Reluctant Executioner
        Half a Kingdom of Rain
        Nobody's Harpsichord
        Blue Hour, Black Bread
        An Atlas of Regret
        The Ventriloquist's Daughter
        Saffron Barricades
        Eleven Ways Downstream
        Pardon the Nightingales
        Brick by Burning Brick
        Our Lady of the Junkyard
        Signal Fires
        The Pomegranate Clause
        Tomorrow Wears Boots
        Gravity and Other Rumours
        Mackerel Sky
        The Count of Small Change
        Under the Wolf Bridge
        Postcards from Purgatory
        Thirst
        Madame Zero
        The Orchard Cannot Sleep
        Feathered Machines
        Waiting for the Locksmith
        Chalk and Thunder
        Vanity of Owls
        The Hundredth Umbrella
        Saint of the Turnpike
        Cold Milk Empire
        Anchors Made of Straw
        The Dentist of Byzantium"""),
    "critic": _lines("""
        its merciless humour
        sentences as brittle as frost
        the tenderness shown to villains
        a plot folded like origami
        dialogue stolen from real buses
        the daring lack of a hero
        landscapes you can almost chew
        the chapter told by a river
        its forensic eye for poverty
        an ending nobody has explained
        songs that readers still hum
        villainous bureaucrats drawn from life
        musical prose and reckless pacing
        that famous forty-page dinner
        the honesty of its grief
        footnotes that rebel against the text
        a heroine who refuses to speak
        how precisely it describes hunger
        the invention of a whole dialect
        erotic restraint
        scenes of breathtaking cruelty
        its patience with ordinary people
        unreliable maps
        jokes told by executioners
        the architecture of its flashbacks
        a wise and talkative donkey
        portraits of vanished trades
        its refusal to console
        fearless treatment of madness
        weather used as a character
        the alphabetical structure
        startling compassion for machines"""),
    "home": _lines("""
        a converted windmill with two donkeys
        the top floor of a shuttered hotel
        an island reached at low tide only
        a narrowboat named Perdita
        Lisbon, above a fado bar
        some farmhouse without electricity
        an old observatory in the Andes
        a fishing hut shared with nine cats
        Montreal and, in winter, Crete
        a terraced cottage beside the abattoir
        the gatehouse of a ruined abbey
        a treehouse near Kyoto
        a former bank vault downtown
        rooms over a Viennese bakery
        one wing of a retirement home
        a lock-keeper's lodge in Burgundy
        an ordinary flat opposite the stadium
        a stone tower on the Galician coast
        a railway carriage in the dunes
        Nairobi with a husband and parrots
        the desert outside Tucson
        a yurt on the Mongolian steppe
        cramped quarters behind a bookshop
        the spare room of a cousin in Oslo
        a sanatorium turned artists' colony
        Edinburgh, in a basement of ferns
        a vineyard that produces no wine
        a squat in old Naples
        a lakeside villa guarded by geese
        the crew deck of a moored ferry
        an apple orchard in Kent
        a Buenos Aires penthouse"""),
    "project": _lines("""
        a dictionary of extinct smells
        an opera about plumbing
        the biography of a glacier
        crosswords for astronauts
        a sequel told by the dog
        bedtime stories for insomniac judges
        a history of umbrellas in nine volumes
        radio plays without words
        memoirs of a failed conjuror
        translations of sailors' tattoos
        a cookbook for hermits
        letters to an unborn planet
        a musical on the metric system
        one sentence of a thousand pages
        a field guide to lost gloves
        sonnets on each chemical element
        screenplays for shadow theatre
        a ghost story set inside a spreadsheet
        manifestos against punctuality
        a tragedy performed by robots
        comic strips about Hegel
        an encyclopaedia of lullabies
        ballads of the postal service
        an almanac of invented festivals
        detective tales for toddlers
        prayers addressed to appliances
        a novel knitted into scarves
        forged diaries of a minor pharaoh
        a pamphlet on talking to horses
        hymns for the recently divorced
        a tourist brochure of the underworld
        riddles carved on driftwood"""),
}

# (topic, question phrasings, answer phrasings). Facts are named by their pool; {name} and {last} are the author's.
# A paraphrase is another phrasing of the same facts; a perturbed answer is the paraphrase with other facts.
TOPICS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "birth",
        (
            "Where and when was {name} born?",
            "What are the place and date of birth of the writer {name}?",
            "In which town, and on what day, did {name} come into the world?",
        ),
        (
            "{last} was born in {town} on {date}.",
            "The town of {town} saw the birth of {name}, which fell upon {date}.",
            "On {date}, {name} came into the world at {town}.",
            "{town} is where it happened: baby {last} arrived {date}.",
            "Parish records of {town} give {date} for {last}.",
        ),
    ),
    (
        "parents",
        (
            "What did the parents of {name} do for a living?",
            "How did {name}'s mother and father earn their bread?",
            "Which occupations did {name}'s parents have?",
        ),
        (
            "Father {last} was {father}, while the mother {mother}.",
            "{name}'s mother {mother}; as for the father, {father}.",
            "In the {last} household Mother {mother} and Father worked as {father}.",
            "One parent, {father}, married a woman who {mother}.",
        ),
    ),
    (
        "genre",
        (
            "Which genre is {name} best known for?",
            "What sort of books does {name} mostly write?",
            "With what literary genre do readers associate {name}?",
        ),
        (
            "{last} has made a name with {genre}.",
            "Readers go to {name} chiefly for {genre}.",
            "Bookshops shelve {last} under {genre}.",
            "Mostly {genre}: nobody living writes them like {name}.",
            "It is {genre} that brought {last} lasting fame.",
        ),
    ),
    (
        "debut",
        (
            "What was the first book of {name}, and what is it about?",
            "With which book did {name} make a debut, and what happens in it?",
            "Can you name {name}'s earliest novel and its subject?",
        ),
        (
            "{last} began with '{debut}', a tale of {plot}.",
            "'{debut}' came first; {last} built that story around {plot}.",
            "The earliest was '{debut}', in which {plot} take centre stage.",
            "Its title is '{debut}' and the matter is {plot}, says {name}.",
            "Debut: '{debut}'. Theme: {plot}.",
        ),
    ),
    (
        "award",
        (
            "Which award did {name} receive, and in what year?",
            "What prize has {name} won, and when?",
            "For which honour was {name} chosen, and what was the year?",
        ),
        (
            "{name} received the {award} in {year}.",
            "In {year} a jury handed {last} its {award}.",
            "The {award}, conferred {year}, went to {last}.",
            "Back in {year}, {last} carried home one {award}.",
        ),
    ),
    (
        "mentor",
        (
            "Who was {name}'s mentor, and where did {name} study?",
            "Where was {name} educated, and who guided the young writer?",
            "What is known of the schooling and the mentor of {name}?",
        ),
        (
            "{last} attended {school}, guided by {mentor}.",
            "After {school}, {mentor} took {name} under a generous wing.",
            "It was {mentor} who taught {last} to write, during the years at {school}.",
            "Enrolled with {school}, the young {last} learned most from {mentor}.",
        ),
    ),
    (
        "habit",
        (
            "How does {name} like to write?",
            "What is unusual about {name}'s writing routine?",
            "Under which conditions does {name} work on a manuscript?",
        ),
        (
            "{last} writes {habit}.",
            "Every page by {name} gets composed {habit}.",
            "Visitors report that {last} works {habit}.",
            "Drafting happens {habit}, a custom {name} never breaks.",
        ),
    ),
    (
        "memory",
        (
            "Which childhood experience shaped the work of {name}?",
            "What early memory keeps returning in {name}'s books?",
            "From what event of youth does {name} draw inspiration?",
        ),
        (
            "{last} keeps returning to {memory}.",
            "Much of it grew out of {memory}, as {name} once admitted.",
            "Nothing marked young {last} more than {memory}.",
            "Behind every story stands {memory}, according to {last}.",
        ),
    ),
    (
        "second",
        (
            "Which book of {name} do critics praise most, and for what?",
            "What do reviewers admire in {name}'s most celebrated novel?",
            "Which title by {name} won over the critics, and why?",
        ),
        (
            "Critics prefer '{second}' because of {critic}.",
            "'{second}', admired for {critic}, is {last}'s masterpiece.",
            "What reviewers love is {critic}, found throughout '{second}' by {name}.",
            "They single out '{second}': {critic} made {last} immortal.",
        ),
    ),
    (
        "present",
        (
            "Where does {name} live now, and what is the current project?",
            "What is {name} working on these days, and where?",
            "Which home and which new work occupy {name} at present?",
        ),
        (
            "Home is {home}, where {last} prepares {project}.",
            "{name} lives in {home} and is busy with {project}.",
            "Nowadays {project} fills the hours, written from {home}.",
            "{last} moved to {home} so as to finish {project}.",
        ),
    ),
)

# question | answer | three other answers
WORLD_FACTS = _lines("""
    What is the capital of Australia?|Canberra|Sydney|Melbourne|Perth
    Which planet is closest to the sun?|Mercury|Venus|Mars|Saturn
    What is the chemical symbol of gold?|Au|Ag|Fe|Pb
    Which ocean is the largest?|Pacific Ocean|Atlantic Ocean|Indian Ocean|Arctic Ocean
    In which city does the Eiffel Tower stand?|Paris|Berlin|Madrid|Rome
    How many sides has a hexagon?|Six|Five|Seven|Eight
    What is the longest river of South America?|Amazon|Orinoco|Paraná|Magdalena
    Which gas do plants take up for photosynthesis?|Carbon dioxide|Oxygen|Helium|Nitrogen
    What is the currency of Japan?|Yen|Won|Yuan|Rupee
    Which metal is liquid at room temperature?|Mercury|Copper|Zinc|Nickel
    What is the tallest mountain on Earth?|Mount Everest|K2|Kilimanjaro|Mont Blanc
    Which language is spoken in Brazil?|Portuguese|Spanish|French|Dutch
    In which country are the pyramids of Giza?|Egypt|Mexico|Sudan|Peru
    How many strings has a violin?|Four|Three|Six|Ten
    Which planet is known for its rings?|Saturn|Venus|Mars|Neptune
    What is the capital of Canada?|Ottawa|Toronto|Vancouver|Montreal
    What do bees make from nectar?|Honey|Silk|Amber|Vinegar
    Which instrument measures temperature?|Thermometer|Barometer|Compass|Scale
    What is the largest mammal?|Blue whale|Elephant|Giraffe|Hippopotamus
    Which desert covers much of northern Africa?|Sahara|Gobi|Atacama|Kalahari
    What is frozen water called?|Ice|Steam|Mist|Dew
    In which sport is a shuttlecock used?|Badminton|Tennis|Golf|Cricket
    Which organ pumps blood?|Heart|Liver|Lung|Kidney
    What is the capital of Norway?|Oslo|Bergen|Stockholm|Helsinki
""")

REAL_AUTHORS = _lines("""
    Who wrote the play Hamlet?|William Shakespeare|Christopher Marlowe|Ben Jonson|John Milton
    Who is the author of Pride and Prejudice?|Jane Austen|Emily Brontë|Mary Shelley|George Eliot
    Which author created Sherlock Holmes?|Arthur Conan Doyle|Agatha Christie|Edgar Allan Poe|Wilkie Collins
    Who wrote Don Quixote?|Miguel de Cervantes|Lope de Vega|Dante Alighieri|Victor Hugo
    Who is the author of War and Peace?|Leo Tolstoy|Anton Chekhov|Ivan Turgenev|Nikolai Gogol
    Which writer invented the monster of Frankenstein?|Mary Shelley|Bram Stoker|Lord Byron|Ann Radcliffe
    Who wrote Moby-Dick?|Herman Melville|Mark Twain|Jack London|Henry James
    Who is the poet of the Divine Comedy?|Dante Alighieri|Petrarch|Boccaccio|Virgil
""")
