import json
import logging

from autoprune.report.events import LOG, JsonView, RunLog, replay


def lines_of(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_the_log_has_a_line_for_each_event_those_before_the_folder_included(searched, tmp_path):
    heard = []
    with RunLog(lambda kind, payload: heard.append(kind)) as log:
        log("preparing", {"what": "the workers"})
        log.open(tmp_path)
        log("failed", {"trial": searched.trial(8), "status": searched.status(), "busy": 1})
    first, second = lines_of(tmp_path)
    assert (first["event"], first["message"], "level" in first) == (
        "preparing",
        "preparing the workers",
        False,
    )
    assert second["level"] == "warning" and second["trial"]["reason"] == "train: ValueError: loss is nan"
    assert second["busy"] == 1 and "status" not in second and second["time"].endswith("+00:00")
    assert heard == ["preparing", "failed"]


def test_two_logs_of_one_process_share_nothing_and_a_resumed_search_appends(tmp_path):
    for name in ("a", "b", "a"):
        (tmp_path / name).mkdir(exist_ok=True)
        with RunLog(None) as log:
            log.open(tmp_path / name)
            log("warning", {"what": name})
    assert [line["message"] for line in lines_of(tmp_path / "a")] == ["a", "a"]
    assert [line["message"] for line in lines_of(tmp_path / "b")] == ["b"]


def test_the_standard_library_s_logger_is_told(caplog):
    with caplog.at_level(logging.INFO, "autoprune"), RunLog(None) as log:
        log("changed", {"what": "space.width: gone"})
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", "space.width: gone")


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path, capsys):
    with RunLog(None) as log:
        log.open(tmp_path / "not" / "there")
        log("warning", {"what": "x"})
    assert capsys.readouterr().err == ""


def test_what_is_printed_elsewhere_is_shown_here(searched):
    lines, seen = [], []
    view = JsonView(lines.append, every=1000.0)
    for number in (0, 1, 8):
        kind = "failed" if number == 8 else "evaluated"
        view(kind, {"trial": searched.trial(number), "status": searched.status(), "busy": 1})
    assert ["status" in json.loads(line) for line in lines] == [True, False, True]
    for line in (*lines, "a print of the task's own", "[1]", '{"event": 1}'):
        seen.append(replay(line, lambda kind, payload: seen.append((kind, payload["message"]))))
    assert seen[0] == ("evaluated", "trial 0 evaluated") and seen[-3:] == [False] * 3
