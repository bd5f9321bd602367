"""Each protocol from a replay to joined patterns, and what goes wrong on the way."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import free_port

from ptycho_ray.commands.cli import main
from ptycho_ray.errors import InputError, MissingFileError
from ptycho_ray.live import dectris_cbor, dectris_json, own_messages, pvaccess
from ptycho_ray.live.frame_encodings import deflated, inflated
from ptycho_ray.live.growing_files import Ending, Names
from ptycho_ray.live.joining import Joined
from ptycho_ray.live.measurement import Measurement, Source
from ptycho_ray.live.object_pixels import object_pixel_m, pixels_per_unit
from ptycho_ray.live.position_files import positions_in
from ptycho_ray.live.receiving import Buffer, Received
from ptycho_ray.live.replaying import Protocol, Replay, counts_of, replay
from ptycho_ray.live.wire_events import Begin, Dropped, End, Frame, Positions, Unreadable, pack, unpack
from ptycho_ray.live.wires import Wire, zeromq

zmq = pytest.importorskip("zmq", reason="pyzmq is not installed")
pytest.importorskip("cbor2", reason="cbor2 is not installed")
COUNT, SIDE = 24, 16
#: Long enough for a busy machine; no test waits for it to pass.
PATIENT = Ending(idle_s=120.0)


@pytest.fixture
def scan(rng: np.random.Generator) -> Replay:
    patterns = rng.poisson(3.0, (COUNT, SIDE, SIDE)).astype(np.uint16)
    begin = Begin(energy_eV=8000.0, detector_distance_m=2.0, detector_pixel_m=75e-6)
    return Replay(patterns=patterns, positions=rng.uniform(0, 50, (COUNT, 2)), begin=begin, wait_s=120.0)


def place() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


class Sending:
    """A replay in a thread; its result once it has ended."""

    def __init__(self, what: Replay, protocol: Protocol, address: str, positions: str | None) -> None:
        self.result: dict[str, Any] = {}
        self.thread = threading.Thread(
            target=lambda: self.result.update(replay(what, protocol, address, positions, lambda line: None))
        )
        self.thread.start()

    def ended(self) -> dict[str, Any]:
        self.thread.join()
        return self.result


def joined(pieces: list[Joined]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(
        np.concatenate([getattr(one, name) for one in pieces]) for name in ("numbers", "positions", "patterns")
    )  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("protocol", "compression"),
    [("dectris2", "bslz4"), ("dectris1", "lz4"), ("zmq", "none")],
)
def test_frames_out_of_order_and_lost_with_positions_of_their_own(
    scan: Replay, protocol: Protocol, compression: Any
) -> None:
    what = Replay(**vars(scan) | {"lost": frozenset({5, 6, 20}), "shuffled": 4, "compression": compression})
    frames, positions = place(), None if protocol == "zmq" else place()
    sending = Sending(what, protocol, frames, positions)
    measurement = Measurement(Source(frames=frames, positions=positions, ending=PATIENT))
    announced: list[Begin] = []
    numbers, places, patterns = joined(list(measurement.pieces(announced.append)))
    assert sending.ended()["sent"] == COUNT - 3
    assert numbers.tolist() == [number for number in range(COUNT) if number not in what.lost]
    np.testing.assert_array_equal(places, scan.positions[numbers])
    np.testing.assert_array_equal(patterns, scan.patterns[numbers])
    assert patterns.dtype == np.uint16
    facts = measurement.tally.facts()
    assert (facts["received"], facts["missing"]) == (COUNT - 3, "5-6, 20")
    assert measurement.ended == ""
    if protocol != "zmq":
        (begin,) = announced
        assert (begin.frames, begin.shape, begin.energy_eV) == (COUNT, (SIDE, SIDE), 8000.0)
        assert (begin.detector_distance_m, begin.detector_pixel_m, begin.dtype) == (2.0, 75e-6, "uint16")


@pytest.mark.slow
def test_a_channel_of_pvaccess(scan: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("p4p", reason="p4p is not installed")
    port = str(free_port())
    for name in ("EPICS_PVA_BROADCAST_PORT", "EPICS_PVAS_BROADCAST_PORT"):
        monkeypatch.setenv(name, port)
    monkeypatch.setenv("EPICS_PVA_ADDR_LIST", "127.0.0.1")
    monkeypatch.setenv("EPICS_PVA_AUTO_ADDR_LIST", "NO")
    monkeypatch.setenv("EPICS_PVAS_INTF_ADDR_LIST", "127.0.0.1")
    np.savez(tmp_path / "places.npz", y=scan.positions[:, 0], x=scan.positions[:, 1])
    ending = Ending(patterns=COUNT, idle_s=120.0)
    measurement = Measurement(
        Source(
            frames="pva://test:image",
            positions=str(tmp_path / "places.npz"),
            names=Names(positions="y,x"),
            ending=ending,
        )
    )
    what = Replay(**vars(scan) | {"arm_s": 1.0, "rate": 50.0})
    from ptycho_ray.live.pvaccess import Channel

    with Channel("test:image") as channel:
        pieces = measurement.pieces()
        posted = threading.Event()

        def post() -> None:
            number = 0
            while not posted.wait(0.02):  # from when the monitor stands until it has the whole scan
                channel.post(number + 1, what.patterns[number % COUNT])
                number += 1

        thread = threading.Thread(target=post)
        thread.start()
        found = list(pieces)
        posted.set()
        thread.join()
    numbers, places, patterns = joined(found)
    assert numbers.tolist() == list(range(COUNT))
    np.testing.assert_array_equal(places, scan.positions)
    start = int(np.flatnonzero((scan.patterns == patterns[0]).all(axis=(1, 2)))[0])
    np.testing.assert_array_equal(patterns, np.roll(scan.patterns, -start, axis=0))


@pytest.mark.parametrize("encoding", ["none", "bslz4", "lz4"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
def test_encodings(encoding: str, dtype: str, rng: np.random.Generator) -> None:
    patterns = rng.integers(0, 200, (3, 17, 20)).astype(dtype)  # no whole number of blocks
    contents = deflated(patterns, encoding)
    frames = [Frame(k, (17, 20), patterns.dtype.str, encoding, one) for k, one in enumerate(contents)]
    np.testing.assert_array_equal(inflated(frames), patterns)


def test_events_pass_from_process_to_process() -> None:
    events = [
        Begin("a", 3, (4, 5), 1.0, None, None, (2.0, 2.5), "uint16"),
        Frame(0, (4, 5), "<u2", "none", b"x" * 40, "a"),
        Dropped((1, 2)),
        Unreadable(None, "junk"),
        End("over"),
    ]
    assert list(unpack(pack(events))) == events
    places = Positions(np.array([3, 4]), np.array([[1.0, 2.0], [3.0, 4.0]]))
    (found,) = unpack(pack([places]))
    assert isinstance(found, Positions)
    np.testing.assert_array_equal(found.numbers, places.numbers)
    np.testing.assert_array_equal(found.positions, places.positions)


def test_the_first_version_of_the_dectris_stream_as_its_manual_writes_it() -> None:
    parts = [
        b'{"htype":"dimage-1.0","series":1,"frame":324,"hash":"fc67f000d08fe6b380ea9434b8362d22"}',
        b'{"htype":"dimage_d-1.0","shape":[5,4],"type":"uint16","encoding":"<","size":40}',
        b"y" * 40,
        b'{"htype":"dconfig-1.0","start_time":834759834260,"stop_time":834760834280,"real_time":1000000}',
    ]
    frame = dectris_json.decode(parts)
    assert frame == Frame(324, (4, 5), "<u2", "none", b"y" * 40, "1")
    assert dectris_json.decode([b'{"htype":"dseries_end-1.0","series":1}']) == End()
    assert dectris_json.decode([b'{"htype":"dheader-1.0","series":1,"header_detail":"none"}']) == Begin("1")
    for spoilt in ([parts[0]], [parts[0], b"{", b""], [parts[0], parts[1].replace(b'"<"', b'"gzip"'), parts[2]]):
        found = dectris_json.decode(spoilt)
        assert isinstance(found, Unreadable)
        assert found.number == 324


def test_messages_in_cbor_that_are_none() -> None:
    import cbor2

    array = cbor2.CBORTag(40, [[2, 2], cbor2.CBORTag(69, b"12345678")])
    image = {"type": "image", "series_id": 3, "image_id": 7, "data": {"threshold_1": array, "threshold_2": array}}
    assert dectris_cbor.decode(cbor2.dumps(image)) == Frame(7, (2, 2), "<u2", "none", b"12345678", "3")
    assert isinstance(dectris_cbor.decode(cbor2.dumps(image), "threshold_2"), Frame)
    spoilt = [
        b"",
        b"\xa1",
        cbor2.dumps([1]),
        cbor2.dumps({"type": "status"}),
        cbor2.dumps(image | {"data": {}}),
        cbor2.dumps(image | {"data": {"threshold_1": cbor2.CBORTag(40, [[2, 2], cbor2.CBORTag(99, b"")])}}),
        cbor2.dumps(image | {"data": {"threshold_1": b"12345678"}}),
    ]
    assert [type(dectris_cbor.decode(message)) for message in spoilt] == [Unreadable] * len(spoilt)
    assert isinstance(dectris_cbor.decode(cbor2.dumps(image), "threshold_9"), Unreadable)


class Hand:
    """A sender that sends what it is told."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PUSH)
        self.socket.linger = 0
        self.thread: threading.Thread | None = None
        self.address = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"

    def send(self, *messages: list[bytes]) -> None:
        """Send them one after the other, once somebody listens."""
        if self.thread is not None:
            self.thread.join()
        self.thread = threading.Thread(target=lambda: [self.socket.send_multipart(message) for message in messages])
        self.thread.start()


@pytest.fixture
def hand() -> Iterator[Hand]:
    one = Hand()
    yield one
    one.context.destroy(linger=0)


def series(what: Replay, compression: str = "none") -> list[list[bytes]]:
    begin, dtype = what.announced(), what.patterns.dtype.str
    return list(dectris_cbor.encoded(begin, deflated(what.patterns, compression), dtype, compression))


def places_file(what: Replay, folder: Path) -> str:
    np.savez(folder / "places.npz", positions=what.positions)
    return str(folder / "places.npz")


def test_frames_twice_damaged_and_of_another_shape_cost_only_themselves(
    scan: Replay, hand: Hand, tmp_path: Path
) -> None:
    start, *frames, end = series(scan, "bslz4")
    small = series(Replay(**vars(scan) | {"patterns": scan.patterns[:1, :8, :8]}))[1]
    spoilt = [frames[5][0][:-200] + bytes(200)]
    other = [frames[6][0].replace(b"replay", b"others")]
    hand.send(start, *frames[:5], frames[2], small, spoilt, other, *frames[6:], end)
    measurement = Measurement(Source(frames=hand.address, positions=places_file(scan, tmp_path), ending=PATIENT))
    numbers, _, patterns = joined(list(measurement.pieces()))
    assert numbers.tolist() == [number for number in range(COUNT) if number != 5]
    np.testing.assert_array_equal(patterns, scan.patterns[numbers])
    facts = measurement.tally.facts()
    assert (facts["duplicates"], facts["missing"], sum(facts["unreadable"].values())) == ("2", "5", 3)
    assert any("8 x 8" in line for line in measurement.tally.lines())


@pytest.mark.parametrize(
    ("columns", "how", "said"),
    [
        (12, {}, r"16 x 12 pixels.*--crop 8"),
        (16, {"crop": 8, "centre_px": (2, 8)}, "--centre"),
        (0, {}, "DECTRIS stream"),
    ],
)
def test_a_header_that_does_not_fit(scan: Replay, hand: Hand, columns: int, how: dict[str, Any], said: str) -> None:
    sent = (
        series(Replay(**vars(scan) | {"patterns": scan.patterns[:, :, :columns]}))[0]
        if columns
        else [b"GET / HTTP/1.1"]
    )
    hand.send(sent)
    with pytest.raises(InputError, match=said):
        list(Measurement(Source(frames=hand.address, ending=PATIENT, **how)).pieces())


def test_a_square_about_the_beam(scan: Replay, hand: Hand, tmp_path: Path) -> None:
    told = Begin(centre_px=(9.0, 6.0))
    hand.send(*series(Replay(**vars(scan) | {"begin": told})))
    source = Source(frames=hand.address, positions=places_file(scan, tmp_path), ending=PATIENT, crop=8)
    _, _, patterns = joined(list(Measurement(source).pieces()))
    np.testing.assert_array_equal(patterns, scan.patterns[:, 5:13, 2:10])


def test_a_detector_that_falls_silent(scan: Replay, hand: Hand, tmp_path: Path) -> None:
    hand.send(*series(scan)[:11])
    ending = Ending(idle_s=2.0)
    measurement = Measurement(Source(frames=hand.address, positions=places_file(scan, tmp_path), ending=ending))
    assert joined(list(measurement.pieces()))[0].tolist() == list(range(10))
    assert (measurement.ended, measurement.tally.facts()["missing"]) == ("no frame for 2 s", "10-23")


def test_a_detector_that_never_begins(scan: Replay, hand: Hand) -> None:
    hand.send(series(scan)[0])
    measurement = Measurement(Source(frames=hand.address, first_s=0.5, ending=PATIENT))
    assert list(measurement.pieces()) == []
    assert measurement.ended == "no frame in 0.5 s"
    assert measurement.tally.facts()["missing"] == "0-23"


def test_a_receiving_process_that_is_killed(scan: Replay, hand: Hand) -> None:
    hand.send(*series(scan)[:2])
    with Received([Wire(hand.address)]) as received:
        events = received.events(0.1)
        while not any(isinstance(event, Frame) for event in next(events)[1]):
            pass
        received.processes[0].kill()
        rest = [event for _, some in events for event in some]
    assert rest[-1] == End("the receiving process ended with code -9")


def test_own_messages(scan: Replay, hand: Hand) -> None:
    rows = slice(0, 4)
    hand.send(
        own_messages.frames_message(0, scan.patterns[rows], scan.positions[rows]),
        [b"{}"],
        [b'{"type": "frames", "dtype": "O", "shape": [1], "positions": [[0, 0]]}', b"12345678"],
        [b'{"type": "frames", "dtype": "uint16", "shape": [1, 4, 4], "positions": [[0, 0]]}', b"short"],
        [b'{"type": "positions", "numbers": [5], "positions": [[1, 2], [3, 4]]}'],
        own_messages.frames_message(5, scan.patterns[5:6], None),
        own_messages.positions_message(5, scan.positions[5:7]),
        own_messages.END,
    )
    measurement = Measurement(Source(frames=hand.address, ending=PATIENT))
    numbers, places, patterns = joined(list(measurement.pieces()))
    assert numbers.tolist() == [0, 1, 2, 3, 5]
    np.testing.assert_array_equal(places, scan.positions[numbers])
    np.testing.assert_array_equal(patterns, scan.patterns[numbers])
    facts = measurement.tally.facts()
    assert (facts["missing"], facts["positions_without_frame"]) == ("4", "6")
    assert sum(facts["unreadable"].values()) == 4


def test_a_buffer_tells_what_it_dropped() -> None:
    buffer = Buffer(most_bytes=3 * 1300)
    for number in range(5):
        buffer.put(Frame(number, (1, 1000), "|u1", "none", bytes(1000)))
    buffer.put(End())
    taken = buffer.take()
    assert taken[0] == Dropped((3, 4))
    assert [event.number for event in taken[1:-1] if isinstance(event, Frame)] == [0, 1, 2]
    assert taken[-1] == End()
    buffer.close()
    assert buffer.take() == []


def test_positions_in_files(tmp_path: Path) -> None:
    places = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 7.5]])
    np.savez(tmp_path / "a.npz", positions=places, numbers=[4, 5, 9])
    (tmp_path / "b.txt").write_text("1.0 2.0\n3.0 4.0\n5.0 7.5\n")
    (tmp_path / "c.csv").write_text("frame,y,x\n4,1.0,2.0\n5,3.0,4.0\n9,5.0,7.5\n")
    for name, numbers in (("a.npz", [4, 5, 9]), ("b.txt", [0, 1, 2]), ("c.csv", [4, 5, 9])):
        found = positions_in(tmp_path / name)
        assert found.numbers.tolist() == numbers
        np.testing.assert_array_equal(found.positions, places)
    with pytest.raises(InputError, match=r"only positions, numbers.*--positions"):
        positions_in(tmp_path / "a.npz", "y,x")
    with pytest.raises(MissingFileError, match="positions"):
        positions_in(tmp_path / "none.npz")


def test_positions_in_lengths() -> None:
    begin = Begin(
        energy_eV=12398.419843320026, detector_distance_m=1.0, detector_pixel_m=1e-4
    )  # a wavelength of 1 angstrom
    pixel_m = object_pixel_m(begin, 100)
    assert pixel_m == pytest.approx(1e-8)
    assert pixels_per_unit("um", pixel_m, "x") == pytest.approx(100.0)
    assert pixels_per_unit("px", None, "x") == 1.0
    with pytest.raises(InputError, match="--pixel-size-m"):
        pixels_per_unit("nm", object_pixel_m(Begin(), 100), "x")
    with pytest.raises(InputError, match="angstrom"):
        pixels_per_unit("furlong", 1e-8, "x")


def test_what_a_replay_sends(rng: np.random.Generator) -> None:
    counts = rng.poisson(3.0, (2, 8, 8)).astype(np.float32)
    assert counts_of(np.sqrt(counts) ** 2).dtype == np.uint16
    assert counts_of(1e6 * counts).dtype == np.uint32
    assert counts_of(counts + 0.3).dtype == np.float32


def test_the_command_replays_into_a_file(scan_file: Path, small_scan: Any, tmp_path: Path, capsys: Any) -> None:
    place = str(tmp_path / "live.h5")
    assert main(["replay", str(scan_file), "--as", "hdf5", "--bind", place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sent"] == len(small_scan)
    measurement = Measurement(Source(frames=place, ending=PATIENT))
    numbers, places, patterns = joined(list(measurement.pieces()))
    assert numbers.tolist() == list(range(len(small_scan)))
    np.testing.assert_array_equal(places, small_scan.positions_px)
    np.testing.assert_array_equal(patterns, np.rint(small_scan.patterns.intensity()))
    assert main(["replay", str(scan_file), "--as", "hdf5", "--bind", place]) == 2
    assert main(["replay", str(scan_file), "--bind", "nonsense://x"]) == 2
    assert main(["replay", str(scan_file), "--rate", "0"]) == 2
    assert "tcp://HOST:PORT" in capsys.readouterr().err


@pytest.mark.parametrize(("codec", "header"), [("bslz4", 12), ("lz4", 16)])
def test_compressed_frames_of_areadetector(codec: str, header: int, rng: np.random.Generator) -> None:
    """Its codecs leave out the frame of HDF5's filters; the type is that of the uncompressed pixels."""
    pattern = rng.poisson(0.1, (1, 33, 40)).astype(np.uint16)
    (content,) = deflated(pattern, codec)
    value = SimpleNamespace(
        uniqueId=5,
        dimension=[SimpleNamespace(size=40), SimpleNamespace(size=33)],
        value=np.frombuffer(content[header:], np.uint8),
        codec=SimpleNamespace(name=codec, parameters=6),
        uncompressedSize=pattern.nbytes,
    )
    frame = pvaccess.decode(value)
    assert isinstance(frame, Frame)
    assert frame.number == 5
    np.testing.assert_array_equal(inflated([frame]), pattern)
    value.codec.name = "jpeg"
    assert isinstance(pvaccess.decode(value), Unreadable)


@pytest.mark.parametrize(
    ("module", "call"),
    [("cbor2", dectris_cbor.cbor), ("zmq", lambda: zeromq("tcp://x:1")), ("p4p.client.thread", pvaccess.p4p_client)],
)
def test_a_library_that_is_missing(module: str, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"pip install 'ptycho-ray\[(live|pva)\]'"):
        call()
