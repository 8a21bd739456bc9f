"""What a worker process prints arrives in its parent process."""

from pathlib import Path

from lora.training.progress import Log
from lora.training.relay import PrintedRecorder, print_metric, relay_line


class Recorded:
    """A recorder that keeps what it gets."""

    def __init__(self):
        self.calls = []

    def numbers(self, *call):
        self.calls.append(call)

    def image(self, *call):
        self.calls.append(call)


def test_lines_metrics_and_what_trackers_record_are_relayed_separately(capsys):
    print_metric("train.loss", 0.25)
    print("step 3: generated sample images")
    PrintedRecorder().numbers(3, {"loss": 0.5})
    PrintedRecorder().image(3, "samples/a TOK, é", Path("a b.jpg"))
    metrics, lines, recorded = [], capsys.readouterr().out.removesuffix("\n").split("\n"), Recorded()
    log = Log(lambda *metric: metrics.append(metric), recorded)
    for line in lines:
        relay_line(line, log)
    assert metrics == [("train.loss", 0.25)]
    assert recorded.calls == [(3, {"loss": 0.5}), (3, "samples/a TOK, é", Path("a b.jpg"))]
    assert capsys.readouterr().out == "step 3: generated sample images\n"
