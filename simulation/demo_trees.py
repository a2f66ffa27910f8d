"""`ratls demo --study trees`: boosted trees over two owners' rows, with real processes.

Columns without a range are refused before anybody signs; with one, the trees split at the edges of
agreed steps. What leaves is held against plain scikit-learn on the pooled rows.
"""

from __future__ import annotations

import json

from simulation.demo_agreed import Story
from simulation.demo_files import MARKERS, STUDY
from simulation.stage import DemoFailed, Stage

_TREES, _LEAVES, _BINS, _RATE, _TESTED, _K = 36, 6, 64, 0.3, 0.2, 20
_FEATURES = [f"marker_{i + 1}" for i in range(MARKERS)]
_RELEASE = (
    f'outputs = ["model_weights", "metrics"], min_subjects_per_input = {_K}, significant_digits = 3'
)
_RESULT, _FILE = "carol/trees.json", "carol/trees.skops"
_BEHIND = 0.05  # of AUC and accuracy: hiding costs no more than this here


def computation(leaves: int) -> str:
    """The policy's section."""
    return f"""[[computation]]
id = "trees"
run = "boosted_trees"
inputs = ["train_party_1", "train_party_2"]
submitters = ["carol-lab"]
recipients = ["carol-lab"]
uses = 2
release = {{ {_RELEASE} }}

[computation.parameters]
features = {json.dumps(_FEATURES)}
label = "ill"
predict = "class"
trees = {{ min = 10, max = {_TREES} }}
leaves = {leaves}
bins = {_BINS}
learning_rate = {_RATE}
test_share = {_TESTED}
"""


def _compare(stage: Stage) -> None:
    """The demo, unlike Carol, owns all rows: plain scikit-learn, without a gate, on the pooled."""
    import numpy as np
    import pyarrow.parquet as pq
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from skops.io import get_untrusted_types, load

    from enclave_app.computations.split import is_tested

    stage.title("Carol makes a model file. Is it what pooled rows would give?")
    stage.run("carol", "task", "export", _RESULT, "--skops", _FILE)
    rows = pq.read_table(stage.folder / "unsplit.parquet")
    tested = is_tested(rows.column("patient"), STUDY, _TESTED)
    matrix = np.column_stack([rows.column(name).to_numpy() for name in _FEATURES])
    ill = rows.column("ill").to_numpy()
    file = stage.folder / _FILE
    model = load(file, trusted=get_untrusted_types(file=file))  # lists, of Carol's own
    plain = HistGradientBoostingClassifier(
        max_iter=_TREES,
        max_leaf_nodes=_LEAVES,
        learning_rate=_RATE,
        early_stopping=False,
    ).fit(matrix[~tested], ill[~tested])
    found = {}
    for name, one in (("agreed trees", model), ("plain scikit-learn", plain)):
        likely = one.predict_proba(matrix[tested])[:, 1]
        right = float(np.mean((likely > 0.5) == ill[tested]))
        found[name] = right, roc_auc_score(ill[tested], likely)
        stage.tell(f"  {name:<20} accuracy {right:.3f}, AUC {found[name][1]:.3f}")
    said = json.loads((stage.folder / _RESULT).read_bytes())["metrics"]
    stage.tell(f"  the enclave said     accuracy {said['accuracy']}, AUC {said['auc']}")
    ours, theirs = found["agreed trees"], found["plain scikit-learn"]
    if abs(ours[1] - said["auc"]) > 0.01:
        raise DemoFailed("the enclave's metrics are not those of the released trees")
    if ours[1] < theirs[1] - _BEHIND or ours[0] < theirs[0] - _BEHIND:
        raise DemoFailed("the agreed trees are much worse than those of the pooled rows")


STORY = Story(
    name="trees",
    wants="boosted trees trained on both, and how well they do on patients who were left out. "
    "Nobody is shown rows, and no leaf of a tree is about few patients.",
    refused="Trees that nobody can sign: more leaves than there may be",
    greedy=computation(1000),
    agreed=computation(_LEAVES),
    computation="trees",
    settings=("--set", f"trees={_TREES}"),
    result=_RESULT,
    compare=_compare,
    patients=6000,
)
