"""The texts of an audit's page: each section's question, and what its numbers cannot say."""

INTRO = (
    "{count} of {source}, beside the model as it was. Values in parentheses are 95 % intervals "
    "over passages or items; they say nothing about other texts."
)
CLASSIFIER_INTRO = (
    "{count} of {source}, beside the classifier that each began as: the untouched weights with "
    "the head of step 0. Values in parentheses are 95 % intervals over held-out texts; they say "
    "nothing about other texts."
)
MOVED = (
    "How far have the inputs of the head moved, on {texts} held-out texts? 1 - cosine is 0 where "
    "each text's features have the direction of before; CKA is 1 where they differ by a rotation "
    "and a scale alone. Neither can say whether knowledge was lost: for that, test another task."
)
PREDICTED = (
    "Does a run lean to a class? Shares of predictions beside the right shares. A class that is "
    "predicted more often than it is right may be the imbalance of the training set, carried over. "
    "The head of step 0 is random, or fitted to the training set (teacher_head: probe)."
)
CLASSIFIER_COLLAPSE = (
    "How many directions do the head's inputs use? The effective rank is the exponential of the "
    "entropy of their singular values, over texts. The silhouette says how far apart they keep "
    "the classes: 1 in tight groups, 0 where they overlap. Groups that drift apart are what "
    "training is for; an entropy and a rank that fall far together point to collapse."
)
DRIFT = (
    "How differently does each run read general text ({passages} passages, {tokens:,} tokens)? "
    "KL(base || run) is 0 only if every prediction is the same. Forgetting is the change of the "
    "loss on that text: above 0, the text is less expected than before. Neither can say whether "
    "knowledge or style has changed: read the passages."
)
COLLAPSE = (
    "How many directions does each model use on the general text? The effective rank is the "
    "exponential of the entropy of the singular values, over tokens; it depends on the text, and "
    "is for comparing models on it. A fall of entropy and ranks together points to collapse; "
    "neither alone does. "
    "The silhouette says how far apart the last hidden states keep prompts with different answers: "
    "1 in tight groups, 0 where they overlap, below 0 among those of another answer. Groups that "
    "drift apart are what training is for; groups that shrink to points lose what else they told. "
    "A share of predictions far from the right one is a lean to an answer."
)
CHANGE = (
    "Where does the change lie, and does it follow the directions of the base? The share is the "
    "part of its squared norm in as many leading directions of the base as it has itself; of a "
    "random change nearly nothing is there. Intruder dimensions are leading directions of the "
    "changed kernels that lie near none of the base (cosine below {epsilon}); with many of them, "
    "models have been found to forget more (arXiv 2410.21228). Undecided ones need more of the "
    "base's directions than were computed. A small norm is no proof of a small effect."
)
NOISE = (
    "Has a run learned wrong answers by heart? Rows of the training set with a field truth tell "
    "which answers are wrong; the share is of those whose every token is the likeliest. Below are "
    "the training examples that neither the base nor training explains: wrong answers are among "
    "them, and rare right ones."
)
CLASSIFIER_NOISE = (
    "Has a run learned wrong labels by heart? Rows of the training set with a field truth tell "
    "which labels are wrong; the share is of those that are predicted. Below are the training "
    "examples with the largest losses after training: wrong labels are among them, and hard texts."
)
REWIND = (
    "What if only a part of the change is kept? Scale 0 is the base, 1 the run, and 1.25 shows "
    "whether more training may still gain. The suggested scale has the least drift among those "
    "that keep nine tenths of the run's gain in right answers (in held-out loss, where no whole "
    "answer is ever right); of a run that gained nothing none is suggested. "
    "balora export --run DIR --scale S --out DIR2 keeps it. {details}"
)
HELD_OUT = "Each point is of {held_out} held-out examples, and has their sampling error."
TRAINED_HEAD = "The trained head is the same at every scale: 0 is not the classifier of step 0. "
TEMPLATE = (
    "The user's own templates. A gap by itself is no bias: words have frequencies. The change from "
    "the base is what fine-tuning did."
)
WORLD = (
    "Wrong labels memorized here are of the world's own probes, not of the training set's first "
    "rows as above. "
    "This is a tiny world, in which every defect is planted and known: the planted share, and the "
    "interval in which a model that learned it exactly would be measured."
)
