"""Promise 7 against a hostile script: what it wrote past its bound is not sent when its job was ended for it."""

from pathlib import Path

from cronium.worker.container.host_files import HostFiles, make_host_files

MIB = 1024 * 1024


def test_only_a_stream_that_holds_more_than_its_bound_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "places" / "place"
    make_host_files(folder)
    (folder / "stdout").write_bytes(b"x" * 3 * MIB)
    (folder / "stderr").write_bytes(b"y" * 100)
    files = HostFiles(folder, {}, MIB, {})
    try:
        gap = files.leave_out("stdout")
        assert gap is not None
        assert gap.offset == 3 * MIB
        assert "left out" in gap.message
        assert files.leave_out("stdout") is None
        assert files.leave_out("stderr") is None
        files.fetch()
        piece = files.take(MIB)
        assert piece is not None
        assert (piece.stream, piece.offset) == ("stderr", 100)
    finally:
        files.close()
