from math import inf

import pytest

from isthmus.cloudio import core as core_module
from isthmus.cloudio.blobs import BlobTask
from isthmus.cloudio.control import Status
from isthmus.cloudio.core import StreamCore
from isthmus.cloudio.options import MIB, StreamOptions
from isthmus.cloudio.pool import Pool
from isthmus.cloudio.terms import Carriage, Phase
from isthmus.contract.notices import PREFIX_BYTES, NoticeKind, pack
from isthmus.envelope.keys import SessionKeys
from isthmus.envelope.segments import Opener, Sealer, SegmentType, blob_name, pack_final, peek_sequence
from isthmus.errors import (
    AssociationAborted,
    LocalMisuse,
    ProviderTrouble,
    RemoteMisuse,
    Retry,
    SealBroken,
)
from isthmus.ports.blobstore import BlobstoreTraits
from isthmus.ports.signalling import SignallingTraits
from isthmus.testing.recorder import Recorder

SESSION = bytes(range(16))
SECRET = bytes(range(32))
KEYS = SessionKeys.derive(SECRET, initiator=True)
FAR_KEYS = SessionKeys.derive(SECRET, initiator=False)


def make(
    *,
    initiator: bool = True,
    credit_out: int = 8192,
    credit_in: int = 8192,
    notice_bytes: int = 4096,
    pool: Pool | None = None,
    far: str = "far",
) -> tuple[StreamCore, Recorder]:
    device = Recorder()
    core = StreamCore(
        session_id=SESSION,
        keys=KEYS if initiator else FAR_KEYS,
        carriage=Carriage(notice_bytes, 1000),
        pool=(pool or Pool()).share(far),
        first_credit_out=credit_out,
        first_credit_in=credit_in,
        observer=device,
        options=StreamOptions(window_least=65536),
        now=0.0,
    )
    return core, device


def take(core: StreamCore, now: float) -> list[bytes]:
    """Publish all there is."""
    notices = []
    core.tick(now)
    while (outgoing := core.next_notice(now)) is not None:
        notices.append(outgoing.notice)
        core.published(outgoing, now)
    return notices


def kinds(notices: list[bytes]) -> list[NoticeKind]:
    return [NoticeKind(notice[0]) for notice in notices]


def data(notices: list[bytes]) -> list[bytes]:
    return [notice for notice in notices if notice[0] == NoticeKind.DATA]


def exchange(one: StreamCore, two: StreamCore, now: float) -> None:
    """Let both say all they have until they are silent."""
    for _ in range(20):
        for notice in take(one, now):
            two.receive(notice, now)
        for notice in take(two, now):
            one.receive(notice, now)
        now += 0.011


def status_of(notice: bytes, keys: SessionKeys) -> Status:
    return Status.unpack(Opener(keys.control_out).open(notice[PREFIX_BYTES:]).payload)


def far_sealers() -> tuple[Sealer, Sealer]:
    return Sealer(FAR_KEYS.data_out), Sealer(FAR_KEYS.control_out)


def sealed(sealer: Sealer, kind: SegmentType, payload: bytes) -> bytes:
    notice = NoticeKind.CONTROL if kind is SegmentType.CONTROL else NoticeKind.DATA
    return pack(notice, SESSION, sealer.seal(kind, payload))


class TestWriting:
    def test_a_flush_seals_at_once(self) -> None:
        core, _ = make()
        core.write(b"command", 0.0, flush=True)
        assert len(data(take(core, 0.0))) == 1

    def test_bytes_without_flush_leave_on_the_next_turn_if_nothing_is_under_way(self) -> None:
        core, _ = make()
        core.write(b"some", 0.0, flush=False)
        assert core.has_work(0.0)
        assert len(data(take(core, 0.0))) == 1

    def test_bytes_without_flush_wait_a_short_tick_while_others_are_under_way(self) -> None:
        core, _ = make()
        core.write(b"first", 0.0, flush=True)
        core.write(b"second", 0.0, flush=False)
        assert len(data(take(core, 0.0))) == 1
        assert core.deadline(0.0) == pytest.approx(0.002)
        assert len(data(take(core, 0.002))) == 1

    def test_full_segments_are_cut_and_the_rest_coalesces(self) -> None:
        core, _ = make()
        core.write(bytes(400), 0.0, flush=False)
        core.write(bytes(2700), 0.0, flush=False)
        core.write(b"end", 0.0, flush=True)
        sizes = [
            len(notice) - PREFIX_BYTES - 32 - (32 if index == 0 else 0)
            for index, notice in enumerate(data(take(core, 0.0)))
        ]
        assert sizes == [1000, 1000, 1000, 103]

    def test_what_was_written_may_change_afterwards(self) -> None:
        core, _ = make()
        far, device = make(initiator=False)
        buffer = bytearray(b"true bytes")
        core.write(memoryview(buffer), 0.0, flush=False)
        buffer[:] = b"x" * len(buffer)
        exchange(core, far, 0.0)
        assert device.data == [b"true bytes"]

    def test_writing_after_finish_is_a_bug_here(self) -> None:
        core, _ = make()
        core.finish(0.0)
        with pytest.raises(LocalMisuse):
            core.write(b"late", 0.0, flush=True)
        with pytest.raises(LocalMisuse):
            core.finish(0.0)

    def test_without_credit_the_writer_is_stopped_and_called_back(self) -> None:
        core, writer = make(credit_out=4000)
        far, reader = make(initiator=False, credit_in=4000)
        assert core.write(bytes(3000), 0.0, flush=True)
        assert not core.write(bytes(1500), 0.0, flush=True)
        exchange(core, far, 0.0)
        assert sum(map(len, reader.data)) == 4000
        assert writer.writable == 0
        far.consumed(4000, 1.0)
        exchange(core, far, 1.0)
        assert writer.writable == 1
        assert sum(map(len, reader.data)) == 4500

    def test_a_pool_that_others_have_filled_stops_the_writer_until_there_is_room(self) -> None:
        pool = Pool(limit=20_000)
        core, device = make(pool=pool)
        others = pool.share("another")
        others.take(20_000)
        assert not core.write(b"some", 0.0, flush=True)
        others.give(19_000)
        assert device.writable == 1

    def test_the_pool_has_all_back_at_the_end(self) -> None:
        pool = Pool()
        core, _ = make(pool=pool)
        core.write(bytes(5000), 0.0, flush=True)
        assert pool.used > 5000
        core.close()
        assert pool.used == 0


class TestHealing:
    def test_a_repetition_is_the_same_ciphertext(self) -> None:
        core, _ = make()
        core.write(b"segment", 0.0, flush=True)
        (first,) = data(take(core, 0.0))
        assert data(take(core, 0.24)) == []
        assert data(take(core, 0.25)) == [first]

    def test_the_second_repetition_goes_as_a_blob_too_under_its_predictable_name(self) -> None:
        core, _ = make()
        core.write(b"segment", 0.0, flush=True)
        (first,) = data(take(core, 0.0))
        take(core, 0.25)
        assert core.next_blob_work(0.25) is None
        assert data(take(core, 0.75)) == [first]
        work = core.next_blob_work(0.75)
        assert work is not None
        assert (work.task, work.name) == (BlobTask.PUT, blob_name(KEYS.data_out, 0))
        assert bytes(work.body or b"") == first[PREFIX_BYTES:]

    def test_no_sequence_ever_has_two_ciphertexts(self) -> None:
        core, _ = make(credit_out=100_000)
        seen: dict[int, bytes] = {}
        for step in range(300):
            now = step * 0.05
            if step % 7 == 0:
                core.write(bytes(step), now, flush=step % 2 == 0)
            for notice in data(take(core, now)):
                segment = notice[PREFIX_BYTES:]
                assert seen.setdefault(peek_sequence(segment), segment) == segment
            while (work := core.next_blob_work(now)) is not None:
                assert seen[work.sequence] == bytes(work.body or b"")
                core.blob_done(work)
        assert len(seen) > 30

    def test_a_gap_is_looked_for_as_a_blob_after_a_grace_time(self) -> None:
        core, _ = make()
        far, reader = make(initiator=False)
        core.write(b"lost", 0.0, flush=True)
        core.write(b"found", 0.0, flush=True)
        lost, found = data(take(core, 0.0))
        far.receive(found, 0.1)
        far.tick(0.5)
        assert far.next_blob_work(0.5) is None
        far.tick(0.61)
        work = far.next_blob_work(0.61)
        assert work is not None
        assert (work.task, work.name) == (BlobTask.GET, blob_name(KEYS.data_out, 0))
        far.blob_got(work, lost[PREFIX_BYTES:], 0.7)
        assert reader.data == [b"lost", b"found"]
        deletion = far.next_blob_work(0.7)
        assert deletion is not None
        assert (deletion.task, deletion.name) == (BlobTask.DELETE, work.name)

    def test_a_lost_last_segment_is_missed_through_the_status(self) -> None:
        core, _ = make()
        far, _ = make(initiator=False)
        core.write(b"lost", 0.0, flush=True)
        take(core, 0.0)
        for notice in take(core, 1.0):
            if notice[0] == NoticeKind.CONTROL:
                far.receive(notice, 1.0)
        far.tick(1.6)
        work = far.next_blob_work(1.6)
        assert work is not None
        assert work.sequence == 0

    def test_a_blob_of_another_sequence_breaks_the_stream(self) -> None:
        core, _ = make()
        far, reader = make(initiator=False)
        core.write(b"zero", 0.0, flush=True)
        core.write(b"one", 0.0, flush=True)
        _, one = data(take(core, 0.0))
        far.receive(pack(NoticeKind.DATA_BLOB, SESSION, bytes(8)), 0.1)
        work = far.next_blob_work(0.1)
        assert work is not None
        far.blob_got(work, one[PREFIX_BYTES:], 0.2)
        assert isinstance(reader.errors[0], SealBroken)

    def test_the_healing_blob_is_deleted_once_it_is_not_needed(self) -> None:
        core, _ = make()
        far, _ = make(initiator=False)
        core.write(b"segment", 0.0, flush=True)
        take(core, 0.0)
        take(core, 0.25)
        notices = take(core, 0.75)
        put = core.next_blob_work(0.75)
        assert put is not None
        core.blob_done(put)
        for notice in notices:
            far.receive(notice, 0.8)
        for notice in take(far, 0.9):
            core.receive(notice, 0.9)
        deletion = core.next_blob_work(0.9)
        assert deletion is not None
        assert (deletion.task, deletion.name) == (BlobTask.DELETE, put.name)

    def test_trouble_with_publishing_is_waited_out_and_nothing_is_lost(self) -> None:
        core, _ = make()
        far, reader = make(initiator=False)
        core.write(b"segment", 0.0, flush=True)
        waits = []
        now = 0.0
        for _ in range(8):
            outgoing = core.next_notice(now)
            assert outgoing is not None
            core.publish_failed(outgoing, ProviderTrouble("503", retry=Retry.LATER), now)
            assert core.next_notice(now) is None
            later = core.deadline(now)
            waits.append(round(later - now, 3))
            now = later
        assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
        exchange(core, far, now)
        assert reader.data == [b"segment"]

    def test_a_refusal_for_good_breaks_the_stream(self) -> None:
        core, device = make()
        core.write(b"segment", 0.0, flush=True)
        outgoing = core.next_notice(0.0)
        assert outgoing is not None
        trouble = ProviderTrouble("too large", retry=Retry.NEVER)
        core.publish_failed(outgoing, trouble, 0.0)
        assert device.errors == [trouble]


class TestLargeSegments:
    def test_they_go_as_blobs_and_a_small_notice_tells(self) -> None:
        core, _ = make(notice_bytes=300)
        far, reader = make(initiator=False, notice_bytes=300)
        core.write(bytes(1000), 0.0, flush=True)
        assert data(take(core, 0.0)) == []
        put = core.next_blob_work(0.0)
        assert put is not None
        core.blob_done(put)
        (notice,) = (notice for notice in take(core, 0.1) if notice[0] == NoticeKind.DATA_BLOB)
        assert len(notice) == PREFIX_BYTES + 8
        far.receive(notice, 0.2)
        get = far.next_blob_work(0.2)
        assert get is not None
        assert get.name == put.name
        far.blob_got(get, bytes(put.body or b""), 0.3)
        assert reader.data == [bytes(1000)]

    def test_an_announcement_that_makes_no_sense_breaks_the_stream(self) -> None:
        for body in (b"", bytes(7), bytes(9), (2**24).to_bytes(8, "big"), (20_000).to_bytes(8, "big")):
            core, device = make()
            core.receive(pack(NoticeKind.DATA_BLOB, SESSION, body), 0.0)
            assert isinstance(device.errors[0], RemoteMisuse)

    def test_a_store_that_refuses_for_good_breaks_a_stream_that_needs_it(self) -> None:
        core, device = make(notice_bytes=300)
        core.write(bytes(1000), 0.0, flush=True)
        take(core, 0.0)
        put = core.next_blob_work(0.0)
        assert put is not None
        core.blob_failed(put, ProviderTrouble("forbidden", retry=Retry.NEVER), 0.0)
        assert len(device.errors) == 1


class TestEnding:
    def test_both_sides_are_complete_when_both_know(self) -> None:
        one, first = make()
        two, second = make(initiator=False)
        one.write(b"there", 0.0, flush=True)
        one.finish(0.0)
        exchange(one, two, 0.0)
        assert second.finals == 1
        assert one.phase is Phase.OPEN
        two.write(b"back", 0.5, flush=True)
        two.finish(0.5)
        exchange(one, two, 0.5)
        assert (one.phase, two.phase) == (Phase.COMPLETE, Phase.COMPLETE)
        assert (first.data, first.finals, first.errors + second.errors) == ([b"back"], 1, [])

    def test_gone_after_the_last_acknowledgement_is_a_good_end(self) -> None:
        one, device = make()
        two, _ = make(initiator=False)
        one.finish(0.0)
        two.finish(0.0)
        for notice in take(one, 0.0):
            two.receive(notice, 0.0)
        for notice in take(two, 0.0):
            one.receive(notice, 0.0)
        assert one.done
        one.receive(pack(NoticeKind.GONE, SESSION), 0.1)
        assert one.phase is Phase.COMPLETE
        assert device.errors == []

    @pytest.mark.parametrize("counts", [(5, 2), (6, 1), (0, 0)])
    def test_a_final_with_wrong_counts_breaks_the_stream(self, counts: tuple[int, int]) -> None:
        core, device = make()
        sealer, _ = far_sealers()
        core.receive(sealed(sealer, SegmentType.DATA, b"five."), 0.0)
        core.receive(sealed(sealer, SegmentType.FINAL, pack_final(*counts)), 0.0)
        assert isinstance(device.errors[0], RemoteMisuse)
        assert device.finals == 0

    def test_a_final_that_comes_early_waits_for_what_is_before_it(self) -> None:
        core, device = make()
        sealer, _ = far_sealers()
        before = sealed(sealer, SegmentType.DATA, b"five.")
        core.receive(sealed(sealer, SegmentType.FINAL, pack_final(5, 1)), 0.0)
        assert device.finals == 0
        core.receive(before, 0.0)
        assert (device.data, device.finals) == ([b"five."], 1)

    @pytest.mark.parametrize("late", [False, True])
    def test_data_after_final_breaks_the_stream(self, late: bool) -> None:
        core, device = make()
        sealer, other = Sealer(FAR_KEYS.data_out), Sealer(FAR_KEYS.data_out)
        final = sealed(sealer, SegmentType.FINAL, pack_final(0, 0))
        other.seal(SegmentType.DATA, b"not sent")
        after = sealed(other, SegmentType.DATA, b"after")
        for notice in (final, after) if late else (after, final):
            core.receive(notice, 0.0)
        assert isinstance(device.errors[0], RemoteMisuse)
        assert device.data == []

    def test_an_empty_data_segment_counts_but_is_not_handed_on(self) -> None:
        core, device = make()
        sealer, _ = far_sealers()
        core.receive(sealed(sealer, SegmentType.DATA, b""), 0.0)
        core.receive(sealed(sealer, SegmentType.FINAL, pack_final(0, 1)), 0.0)
        assert (device.data, device.finals, device.errors) == ([], 1, [])

    def test_more_than_the_credit_breaks_the_stream(self) -> None:
        core, device = make(credit_in=1500)
        sealer, _ = far_sealers()
        for _ in range(2):
            core.receive(sealed(sealer, SegmentType.DATA, bytes(1000)), 0.0)
        assert isinstance(device.errors[0], RemoteMisuse)
        assert sum(map(len, device.data)) == 1000

    @pytest.mark.parametrize("place", [PREFIX_BYTES, PREFIX_BYTES + 1, PREFIX_BYTES + 15, PREFIX_BYTES + 20, -1])
    def test_a_changed_byte_breaks_the_stream_and_nothing_of_it_is_handed_on(self, place: int) -> None:
        core, device = make()
        notice = bytearray(sealed(far_sealers()[0], SegmentType.DATA, b"payload"))
        notice[place] ^= 1
        core.receive(bytes(notice), 0.0)
        assert isinstance(device.errors[0], SealBroken)
        assert device.data == []
        core.receive(sealed(far_sealers()[0], SegmentType.DATA, b"payload"), 0.0)
        assert device.data == []
        assert len(device.errors) == 1

    def test_notices_of_unknown_kinds_and_stumps_are_ignored(self) -> None:
        core, device = make()
        core.receive(bytes((99,)) + SESSION + b"newer", 0.0)
        core.receive(b"", 0.0)
        assert device.errors == []

    def test_silence_of_25_seconds_breaks_the_stream(self) -> None:
        core, device = make()
        core.tick(24.9)
        assert device.errors == []
        core.tick(25.0)
        assert isinstance(device.errors[0], AssociationAborted)
        assert core.deadline(25.0) == inf

    def test_a_replayed_status_is_not_life(self) -> None:
        core, device = make()
        _, sealer = far_sealers()
        status = sealed(sealer, SegmentType.CONTROL, Status(0, 0, 8192, 0).pack())
        core.receive(status, 0.0)
        core.receive(status, 20.0)
        core.tick(25.0)
        assert len(device.errors) == 1

    def test_gone_in_the_middle_breaks_the_stream(self) -> None:
        core, device = make()
        core.receive(pack(NoticeKind.GONE, SESSION), 0.0)
        assert isinstance(device.errors[0], AssociationAborted)


class TestStatuses:
    def test_they_are_repeated_each_second_while_something_is_open_and_each_five_when_not(self) -> None:
        core, _ = make()
        core.write(b"unacknowledged", 0.0, flush=True)
        _, sealer = far_sealers()
        times = []
        for tenth in range(1, 241):
            now = tenth / 10
            if tenth == 40:
                core.receive(sealed(sealer, SegmentType.CONTROL, Status(1, 0, 8192, 0).pack()), now)
            if NoticeKind.CONTROL in kinds(take(core, now)):
                times.append(now)
        assert times == pytest.approx([1, 2, 3, 4, 5, 10, 15, 20], abs=0.11)

    def test_acknowledgements_wait_for_company_but_not_for_long(self) -> None:
        core, _ = make(credit_in=100_000)
        sealer, _ = far_sealers()
        for _ in range(5):
            core.receive(sealed(sealer, SegmentType.DATA, bytes(1000)), 0.0)
        assert take(core, 0.049) == []
        (status,) = take(core, 0.051)
        assert status_of(status, KEYS).next_expected == 5

    def test_half_a_window_is_acknowledged_at_once(self) -> None:
        core, _ = make(credit_in=8000)
        sealer, _ = far_sealers()
        for _ in range(4):
            core.receive(sealed(sealer, SegmentType.DATA, bytes(1000)), 0.0)
        assert kinds(take(core, 0.0)) == [NoticeKind.CONTROL]

    def test_a_status_goes_before_data_that_waits(self) -> None:
        core, _ = make()
        core.write(bytes(3000), 0.0, flush=True)
        core.signal(b"abort")
        assert kinds(take(core, 0.0))[0] is NoticeKind.CONTROL

    def test_a_status_goes_without_credit(self) -> None:
        core, _ = make(credit_out=1000)
        core.write(bytes(3000), 0.0, flush=True)
        take(core, 0.0)
        core.signal(b"abort")
        assert kinds(take(core, 0.0)) == [NoticeKind.CONTROL]

    def test_an_older_status_changes_nothing(self) -> None:
        core, device = make()
        _, sealer = far_sealers()
        old = sealed(sealer, SegmentType.CONTROL, Status(0, 0, 8192, 0, signal_number=1, signal=b"old").pack())
        new = sealed(sealer, SegmentType.CONTROL, Status(0, 0, 8192, 0, signal_number=2, signal=b"new").pack())
        for notice in (new, old, new):
            core.receive(notice, 0.0)
        assert device.signals == [b"new"]

    def test_a_signal_is_repeated_until_it_was_seen(self) -> None:
        one, _ = make()
        two, device = make(initiator=False)
        one.signal(b"abort")
        take(one, 0.0)
        assert not one.signal_seen
        for notice in take(one, 1.0):
            two.receive(notice, 1.0)
        assert device.signals == [b"abort"]
        for notice in take(two, 1.0):
            one.receive(notice, 1.0)
        assert one.signal_seen

    def test_consumption_beyond_what_arrived_is_a_bug_here(self) -> None:
        core, _ = make()
        with pytest.raises(LocalMisuse):
            core.consumed(1, 0.0)

    def test_a_long_signal_is_a_bug_here(self) -> None:
        core, _ = make()
        with pytest.raises(LocalMisuse):
            core.signal(bytes(65))


def test_an_observer_may_call_back() -> None:
    core, device = make()
    far, far_device = make(initiator=False)

    def answer(payload: bytes) -> None:
        device.data.append(payload)
        core.consumed(len(payload), 0.0)
        core.write(b"answer to " + payload, 0.0, flush=True)
        if len(device.data) == 2:
            core.finish(0.0)

    device.on_data = answer  # type: ignore[method-assign]  # a device that answers at once
    far.write(b"one", 0.0, flush=True)
    far.write(b"two", 0.0, flush=True)
    exchange(far, core, 0.0)
    assert far_device.data == [b"answer to one", b"answer to two"]
    assert far_device.finals == 1


def test_an_observer_may_close_in_the_middle() -> None:
    core, device = make()

    def close(payload: bytes) -> None:
        device.data.append(payload)
        core.close()

    device.on_data = close  # type: ignore[method-assign]  # a device that has enough
    sealer, _ = far_sealers()
    notices = [sealed(sealer, SegmentType.DATA, b"one"), sealed(sealer, SegmentType.DATA, b"two")]
    for notice in reversed(notices):
        core.receive(notice, 0.0)
    assert device.data == [b"one"]


@pytest.mark.parametrize(
    ("cheap", "notice_most", "blob_most", "credit", "expected"),
    [
        (True, MIB, 64 * MIB, 4 * MIB, Carriage(MIB, 240 * 1024)),
        (True, 100_000, 64 * MIB, 4 * MIB, Carriage(100_000, 100_000 - PREFIX_BYTES - 64)),
        (False, MIB, 64 * MIB, 4 * MIB, Carriage(96 * 1024, 240 * 1024)),
        (False, 20_000, 64 * MIB, 4 * MIB, Carriage(20_000, 240 * 1024)),
        (False, 20_000, 50_000, 4 * MIB, Carriage(20_000, 50_000 - 64)),
        (True, MIB, 64 * MIB, 1000, Carriage(MIB, 500)),
    ],
)
def test_segments_fit_their_bearers(
    cheap: bool, notice_most: int, blob_most: int, credit: int, expected: Carriage
) -> None:
    signalling = SignallingTraits(max_notice_bytes=notice_most, cheap_bulk=cheap, retention=0.0)
    blobstore = BlobstoreTraits(max_blob_bytes=blob_most, list_lag=0.0, has_ttl=False)
    assert Carriage.of(signalling, blobstore, StreamOptions(), credit) == expected


def test_a_stream_ends_before_its_sequence_numbers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    core, device = make()
    monkeypatch.setattr(core_module, "_SEGMENTS_KEPT_BACK", 2**24 - 3)
    core.write(bytes(3000), 0.0, flush=True)
    assert device.errors == []
    core.write(b"one too many", 0.0, flush=True)
    assert isinstance(device.errors[0], AssociationAborted)
