"""T10: a malicious Bridge and rogue sites. No session with a key that no person accepted, and no byte for a stranger.

South has a device, PACS, and accepted north, whose device WS may call it. What must never happen is seen at the two
devices' own sockets: PACS dialled, or WS accepted.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from isthmus.cloudio.options import StreamOptions
from isthmus.contract.invites import Invite
from isthmus.contract.notices import PREFIX_BYTES, NoticeKind, pack, pack_fields, unpack_fields
from isthmus.contract.rest import SiteEntry
from isthmus.dicom.command import CommandField
from isthmus.dicom.framing import PduType
from isthmus.dicom.pdus import message
from isthmus.envelope.offers import Decision, open_offer
from isthmus.envelope.prekeys import PrekeyPair
from isthmus.kit.names import SiteName
from isthmus.testing.bridge import Member
from isthmus.testing.devices import Archive, Listening, calling, listening
from isthmus.testing.dicom import abort, associate_ac, associate_rj, echo_rq, echo_rsp, move_command, store_rq
from isthmus.testing.malice import Insider, MaliciousBridge
from isthmus.testing.network import Network, NetworkOptions, Site, until

NOT_GRANTED = associate_rj(1, 1, 3)
OUTAGE = associate_rj(2, 3, 1)


@dataclass(slots=True)
class Scene:
    network: Network
    bridge: MaliciousBridge
    north: Site
    south: Site
    pacs: Listening
    archive: Archive

    def insider(self, site: str) -> Insider:
        """Return what `site` itself could do: with its own keys."""
        core = self.network.sites[site].live.core
        return Insider(site, core.identity, now=core.clock.now())

    def stranger(self, site: str = "north") -> Insider:
        """Return somebody with other keys who says to be `site`."""
        return Insider(site, now=self.north.live.core.clock.now())

    def prekey(self, site: str) -> PrekeyPair:
        return next(iter(self.network.sites[site].live.core.prekeys().values()))

    async def echo(self) -> None:
        async with calling(self.north.port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == 2
            await wire.send(echo_rq())
            assert await wire.pdu() == echo_rsp()
            await wire.release()

    async def dropped(self, notice: bytes) -> str:
        """Deliver an offer to south; return why it was dropped."""
        before = self.pacs.dialled
        with capture_logs() as logs:
            self.bridge.inject(self.south.router_id, notice)
            await until(lambda: any(line["event"] == "an offer was dropped" for line in logs))
        assert self.pacs.dialled == before
        return str(next(line["why"] for line in logs if line["event"] == "an offer was dropped"))


@contextlib.asynccontextmanager
async def scene(folder: Path, options: NetworkOptions | None = None) -> AsyncIterator[Scene]:
    archive = Archive()
    async with listening(archive) as pacs, Network.running(folder, options=options or NetworkOptions()) as network:
        await network.pair(pacs)
        assert network.parts is not None
        made = Scene(
            network, MaliciousBridge(network.parts), network.sites["north"], network.sites["south"], pacs, archive
        )
        yield made
        await network.quiet()


async def test_an_offer_by_a_key_that_nobody_accepted_is_dropped(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        notice, _ = here.stranger().offer(here.south.live.core.identity.router_id, here.prekey("south"))
        assert "not accepted" in await here.dropped(notice)
        # with north's Router ID pasted over the stranger's
        draft = here.insider("north").offer(here.south.live.core.identity.router_id, here.prekey("south"))[1]
        forged = here.stranger().identity.sign(b"isthmus/offer/v1", draft.offer)
        session_id = unpack_fields(draft.offer, 12)[1]
        body = pack_fields((draft.offer, forged, draft.request_box, here.north.router_id.encode()))
        assert "signature" in (await here.dropped(pack(NoticeKind.OFFER, session_id, body))).lower()


async def test_swapped_keys_reach_nobody_in_either_direction(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        await here.echo()
        mallory = {"north": here.stranger("north"), "south": here.stranger("south")}

        def lie(entry: SiteEntry) -> SiteEntry:
            to = "south" if entry.site == "north" else "north"
            return mallory[entry.site].entry(entry, to, here.network.sites[to].router_id, "PACS")

        here.bridge.lie = lie
        here.bridge.asked.clear()
        with capture_logs() as logs:
            here.bridge.tell_all()
            await until(lambda: here.north.live.core.directory.key_changed(SiteName("south")))
            await until(lambda: here.south.live.core.directory.key_changed(SiteName("north")))
            async with calling(here.north.port) as wire:
                assert await wire.associate("PACS", "WS") == NOT_GRANTED
        assert here.bridge.asked == []  # nothing was sealed to anybody's key
        notice, _ = mallory["north"].offer(here.south.live.core.identity.router_id, here.prekey("south"))
        await here.dropped(notice)
        real, _ = here.insider("north").offer(here.south.live.core.identity.router_id, here.prekey("south"))
        assert "changed" in await here.dropped(real)  # nothing flows until a person has looked
        assert here.pacs.dialled == 1
        for site in (here.north, here.south):
            assert any("another key" in str(line) for line in logs), site  # the alert
        here.bridge.lie = lambda entry: entry
        here.bridge.tell_all()
        await until(lambda: not here.north.live.core.directory.key_changed(SiteName("south")))
        await until(lambda: not here.south.live.core.directory.key_changed(SiteName("north")))
        await here.echo()


async def test_a_statement_or_prekey_by_another_key_is_not_believed(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        mallory = here.stranger("south")
        to = here.north.router_id

        def lie(entry: SiteEntry) -> SiteEntry:
            return entry.model_copy(
                update={"statement": mallory.statement("north", to, "VAULT"), "prekey": mallory.prekey_document()}
            )

        here.bridge.lie = lie
        here.bridge.tell_all()
        await until(lambda: bool(here.north.live.core.directory.alerts.get("south")))
        async with calling(here.north.port) as wire:
            assert (await wire.associate("VAULT", "WS"))[0] == 3
        here.bridge.asked.clear()
        await here.echo()  # with the prekey that verified before: the relay goes on as if nothing had been said
        offer = here.bridge.asked[0].offer
        assert unpack_fields(offer, 12)[7] == here.prekey("south").published().prekey_id


async def test_a_rolled_back_statement_is_refused_and_told(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        assert here.network.parts is not None
        kept: list[SiteEntry] = []

        def keep(entry: SiteEntry) -> SiteEntry:
            kept.append(entry)
            return entry

        here.bridge.lie = keep
        here.bridge.tell_all()
        await until(lambda: any(entry.site == "south" for entry in kept))
        old = next(entry for entry in kept if entry.site == "south")
        here.bridge.lie = lambda entry: entry
        grant = (await here.south.control("grant_list"))[0]["grant_id"]
        await here.south.control("grant_remove", grant=grant)

        async def told() -> bool:
            return not await here.north.control("directory")

        await until(told)
        here.bridge.lie = lambda entry: old if entry.site == "south" else entry
        here.bridge.tell_all()
        await until(lambda: any("older" in text for text in here.north.live.core.directory.alerts.get("south", ())))
        async with calling(here.north.port) as wire:
            assert await wire.associate("PACS", "WS") == NOT_GRANTED
        assert here.bridge.asked == []


async def test_a_grant_that_was_withdrawn_holds_however_the_bridge_hides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.router.live.opening.HEARD_SECONDS", 1.0)
    async with scene(tmp_path) as here:
        kept: list[SiteEntry] = []

        def keep(entry: SiteEntry) -> SiteEntry:
            kept.append(entry)
            return entry

        here.bridge.lie = keep
        here.bridge.tell_all()
        await until(lambda: {entry.site for entry in kept} == {"north", "south"})
        frozen = {entry.site: entry for entry in kept}
        here.bridge.lie = lambda entry: frozen[entry.site]
        grant = (await here.south.control("grant_list"))[0]["grant_id"]
        await here.south.control("grant_remove", grant=grant)
        async with calling(here.north.port) as wire:
            assert await wire.associate("PACS", "WS") == NOT_GRANTED
        await here.south.control("site_remove", site="north")
        here.bridge.asked.clear()
        async with calling(here.north.port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == 3
        assert here.pacs.dialled == 0


async def test_a_replayed_offer_dials_nobody_even_after_a_restart(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        await here.echo()
        await here.network.quiet()
        offer = here.bridge.offers(here.south.router_id)[0]
        assert "repeated" in await here.dropped(offer)
        await here.south.end()
        here.south = await here.network.start("south")
        assert "repeated" in await here.dropped(offer)
        assert here.pacs.dialled == 1


async def test_a_session_id_is_good_for_one_offer(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        await here.echo()
        await here.network.quiet()
        used = here.bridge.offers(here.south.router_id)[0][1:PREFIX_BYTES]
        to = here.south.live.core.identity.router_id
        notice, _ = here.insider("north").offer(to, here.prekey("south"), session_id=used)
        assert "repeated" in await here.dropped(notice)
        fresh, _ = here.insider("north").offer(to, here.prekey("south"))
        moved = bytes((NoticeKind.OFFER,)) + secrets.token_bytes(16) + fresh[PREFIX_BYTES:]
        assert "another session's id" in await here.dropped(moved)


async def test_an_offer_for_another_router_out_of_its_time_or_of_another_version_is_dropped(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        north, south = here.insider("north"), here.south.live.core.identity.router_id
        elsewhere, _ = north.offer(here.stranger().identity.router_id, here.prekey("south"))
        assert "another Router" in await here.dropped(elsewhere)
        late, _ = north.offer(south, here.prekey("south"), age=600.0)
        assert "time" in await here.dropped(late)
        early, _ = north.offer(south, here.prekey("south"), age=-600.0)
        assert "time" in await here.dropped(early)
        other_prekey, _ = north.offer(south, here.stranger().prekey)
        assert "prekey" in await here.dropped(other_prekey)
        notice, _ = north.offer(south, here.prekey("south"))
        await here.dropped(notice.replace(b"isthmus/offer/v1", b"isthmus/offer/v0"))  # a downgrade
        for index in range(PREFIX_BYTES, len(notice) - 60, 97):  # and every other field
            changed = bytearray(notice)
            changed[index] ^= 1
            await here.dropped(bytes(changed))
        assert here.pacs.dialled == 0


async def test_an_accepted_site_cannot_call_as_anothers_device(tmp_path: Path) -> None:
    archive = Archive()
    async with (
        listening(archive) as pacs,
        Network.running(tmp_path, ("north", "south", "east"), options=NetworkOptions()) as network,
    ):
        await network.pair(pacs)
        await network.grant("south", "PACS", "east")
        assert network.parts is not None
        here = Scene(
            network, MaliciousBridge(network.parts), network.sites["north"], network.sites["south"], pacs, archive
        )
        await here.echo()
        south = here.south.live.core.identity.router_id
        for title in ("WS", "PACS"):  # north's device, and south's own
            with capture_logs() as logs:
                notice, _ = here.insider("east").offer(south, here.prekey("south"), calling=title)
                here.bridge.inject(here.south.router_id, notice)
                await until(lambda logs=logs: any(line["event"] == "association refused" for line in logs))  # type: ignore[misc]
            line = next(line for line in logs if line["event"] == "association refused")
            assert line["answer"] == "1/1/3"
            assert f"calls as {title}" in line["why"]
        assert pacs.dialled == 1
        await network.quiet()


async def test_a_move_to_another_sites_title_brings_nothing_to_the_site_that_asked(tmp_path: Path) -> None:
    """East has a device of its own by the title of north's, and asks south's archive to send there."""
    archive, stolen = Archive(), Archive()
    async with (
        listening(archive) as pacs,
        listening(stolen) as thief,
        Network.running(tmp_path, ("north", "south", "east"), options=NetworkOptions()) as network,
    ):
        await network.pair(pacs)
        await network.grant("south", "PACS", "east")
        north, south, east = (network.sites[name] for name in ("north", "south", "east"))
        await east.control("device_add", address="EVIL@127.0.0.1")
        await east.control("device_add", address=f"WS@127.0.0.1:{thief.port}")
        async with calling(north.port) as wire:  # from now on south knows whose WS is
            assert (await wire.associate("PACS", "WS"))[0] == PduType.ASSOCIATE_AC
            await wire.release()
        async with calling(east.port) as wire:
            assert (await wire.associate("PACS", "EVIL"))[0] == PduType.ASSOCIATE_AC
            await wire.send(message(1, move_command("WS")))
            await until(lambda: CommandField.C_MOVE_RQ in archive.commands)
            async with calling(south.port) as back:
                assert (await back.associate("WS", "PACS"))[0] == PduType.ASSOCIATE_RJ
        assert thief.dialled == 0
        await network.quiet()


async def test_a_site_that_accepted_nobody_is_never_reached_and_sends_nothing(tmp_path: Path) -> None:
    """The victim's device is at no time dialled, and its caller's request is sealed to nobody."""
    async with (
        listening(Archive()) as vault,
        Network.running(tmp_path, ("victim",), options=NetworkOptions()) as network,
    ):
        victim = network.sites["victim"]
        assert network.parts is not None
        assert network.bridge is not None
        assert network.bridge_address is not None
        bridge = MaliciousBridge(network.parts)
        await victim.control("device_add", address=f"VAULT@127.0.0.1:{vault.port}")
        await victim.control("device_add", address="WS@127.0.0.1")
        rogue = Member("rogue", network.bridge_address.url, network.bridge_address.identity)
        try:
            invite = Invite.parse((await network.bridge.control("invite", site="rogue", valid_days=1))["invite"])
            await rogue.client.enrol(invite, rogue.prekey_document())
            rogue.listen()
            insider = Insider("rogue", rogue.identity, now=victim.live.core.clock.now())
            bridge.lie = lambda entry: insider.entry(entry, "victim", victim.router_id, "PACS", "VAULT")
            bridge.tell_all()

            async def listed() -> bool:
                return any(row["site"] == "rogue" for row in await victim.control("site_list"))

            await until(listed)
            prekey = next(iter(victim.live.core.prekeys().values()))
            for called in ("VAULT", "WS"):
                notice, _ = insider.offer(victim.live.core.identity.router_id, prekey, called=called)
                with capture_logs() as logs:
                    bridge.inject(victim.router_id, notice)
                    await until(lambda logs=logs: any(line["event"] == "an offer was dropped" for line in logs))  # type: ignore[misc]
            for called in ("PACS", "VAULT2"):
                async with calling(victim.port) as wire:
                    assert (await wire.associate(called, "WS"))[0] == 3
            assert bridge.asked == []
            assert vault.dialled == 0
            assert victim.live.core.metrics is not None
            assert not [row for row in bridge.delivered if row.to == rogue.mailbox and row.notice[0] >= 16]
        finally:
            await rogue.close()
        await network.quiet()


async def test_a_forged_answer_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Bridge keeps the offer to itself and answers in south's place, again and again."""
    monkeypatch.setattr("isthmus.router.live.opening.HEARD_SECONDS", 1.0)
    async with scene(tmp_path) as here:
        forger = here.stranger("south")

        def keep(to: str, notice: bytes) -> list[bytes]:
            if notice[0] != NoticeKind.OFFER:
                return [notice]
            session_id = notice[1:PREFIX_BYTES]
            asyncio.get_running_loop().call_later(0.01, forge, session_id, notice, 60)
            return []

        def forge(session_id: bytes, notice: bytes, left: int) -> None:
            # The forger cannot open the offer; it makes up an accept of an offer that it can open.
            _, draft = here.insider("north").offer(forger.identity.router_id, forger.prekey, session_id=session_id)
            opened = open_offer(
                draft.offer,
                draft.signature,
                draft.request_box,
                initiator_public=here.north.live.core.identity.public,
                own=forger.identity.router_id,
                prekeys={forger.prekey.published().prekey_id: forger.prekey},
                now=forger.now,
            )
            accept = opened.accept(
                forger.identity,
                decision=Decision.ACCEPTED,
                answer=associate_ac(opened.request),
                window=1 << 20,
                random=secrets.token_bytes,
            )
            body = pack_fields((accept.accept, accept.signature, accept.answer_box))
            here.bridge.inject(here.north.router_id, pack(NoticeKind.ACCEPT, session_id, body))
            here.bridge.inject(here.north.router_id, pack(NoticeKind.ACCEPT, session_id, b"no fields"))
            if left:
                asyncio.get_running_loop().call_later(0.05, forge, session_id, notice, left - 1)

        here.bridge.filter = keep
        with capture_logs() as logs:
            async with calling(here.north.port) as wire:
                await wire.send(b"")
                assert await wire.associate("PACS", "WS") == OUTAGE
        assert any(line["event"] == "an answer that does not verify" for line in logs)
        assert here.pacs.dialled == 0
        assert not [row for row in here.bridge.delivered if row.notice[0] == NoticeKind.DATA]


@pytest.mark.parametrize("answer", [b"\x02\x00\x00\x00\x00\x04acac", b"\x02", b"", associate_rj(1, 1, 7)])
async def test_a_malformed_answer_of_an_accepted_site_lets_both_devices_go_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr("isthmus.router.live.answering._restored", lambda *_: SimpleNamespace(raw=answer))
    async with scene(tmp_path) as here:
        async with calling(here.north.port) as wire:
            assert await wire.associate("PACS", "WS") == OUTAGE
        await here.pacs.let_go(5.0)
        assert here.archive.endings == ["aborted 2/0"]


async def test_injected_notices_put_no_byte_before_a_device(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        await here.echo()
        old = [row for row in here.bridge.delivered if row.notice[0] in {NoticeKind.DATA, NoticeKind.CONTROL}]
        seen_bytes = here.archive.bytes_in
        for kind in [*NoticeKind, 99]:
            async with calling(here.north.port) as wire:
                await wire.associate("PACS", "WS")
                session_id = next(iter(here.south.live.sessions))
                for body in (b"", secrets.token_bytes(40), secrets.token_bytes(400)):
                    for to in (here.south.router_id, here.north.router_id):
                        here.bridge.inject(to, bytes((kind,)) + session_id + body)
                for row in old:  # what another session carried, under this one's id
                    here.bridge.inject(row.to, row.notice[:1] + session_id + row.notice[PREFIX_BYTES:])
                assert await wire.pdu() in {b"", abort(2, 0)}  # the session ends; both devices are let go
            await here.pacs.let_go()
            await here.network.quiet()
        assert here.archive.bytes_in == seen_bytes
        for kind in [*NoticeKind, 99]:  # and for sessions that nobody knows, or with no session at all
            here.bridge.inject(here.south.router_id, bytes((kind,)) + secrets.token_bytes(16) + b"x" * 30)
            here.bridge.inject(here.south.router_id, bytes((kind,)))
        here.bridge.inject(here.south.router_id, b"")
        await here.echo()


async def test_a_revoked_sites_sessions_are_cut_and_nothing_more_is_carried(tmp_path: Path) -> None:
    # The revoked Router's own stream ends by silence: nobody tells it anything any more.
    options = NetworkOptions(stream=StreamOptions(silence_limit=3.0, status_idle=1.0))
    async with scene(tmp_path, options) as here:
        assert here.network.bridge is not None
        async with calling(here.north.port) as wire:
            await wire.associate("PACS", "WS")
            await wire.send(echo_rq())
            assert await wire.pdu() == echo_rsp()
            await here.network.bridge.control("revoke", site="north")
            await here.pacs.let_go()
            carried = here.archive.bytes_in
            with contextlib.suppress(ConnectionError):
                await wire.send(store_rq(bytes(100_000)))
            assert here.archive.endings == ["aborted 2/0"]
            assert here.archive.bytes_in == carried
        async with calling(here.north.port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == 3
        assert here.pacs.dialled == 1
