"""What an operator chooses for queued delivery: a mode for each destination, groups, and caps on the line.

Between the devices of this site, which it builds on, and `Administration`, which adds all else.
"""

from typing import Any, Final

from isthmus.errors import OperatorError
from isthmus.kit.names import AETitle
from isthmus.router.control import views
from isthmus.router.control.device_administration import DeviceAdministration, FieldError, in_field
from isthmus.router.queued.bandwidth import parse_minute, parse_rate
from isthmus.router.routing.records import BOTH_MODES, CapRule, DeliveryMode, DeliveryRule, Direction, Group

_MOST_MEMBERS: Final = 32


class DeliveryAdministration(DeviceAdministration):
    """Delivery modes, groups and bandwidth."""

    # -- modes

    def delivery_set(self, title: str, mode: str, *, from_device: str | None = None) -> dict[str, Any]:
        """Choose how devices of this site, or one of them, send to `title`. Refused if its owner does not allow it."""
        called = in_field("title", AETitle.parse, title)
        wanted = in_field("mode", _mode, mode)
        sender = None if from_device is None else self.find(from_device)
        if self._directory.group(called) is not None:
            raise FieldError("title", f"{called} is a group, and always queued", hint="isthmus group list")
        allowed = self._allowed(called)
        if allowed is not None and wanted not in allowed:
            raise FieldError(
                "mode",
                f"the owner of {called} does not allow {wanted}, only {' and '.join(sorted(allowed))}",
                hint="ask its site; there: isthmus device set TITLE --modes live,queued",
            )
        rule = DeliveryRule(called, None if sender is None else sender.device_id, wanted)
        self._store.save_delivery_rule(rule)
        of = "" if sender is None else f" from {sender.title}"
        self._audit.changed("delivery_set", f"{called} {wanted}{of}")
        self._directory.reload()
        return {**self._rule_row(rule), "notes": self._notes_on_mode(called, wanted, known=allowed is not None)}

    def delivery_list(self) -> list[dict[str, Any]]:
        """Return every choice."""
        return [self._rule_row(rule) for rule in self._directory.delivery_rules]

    def delivery_unset(self, title: str, *, from_device: str | None = None) -> dict[str, Any]:
        """Forget a choice: what is chosen for all senders holds then, or live."""
        called = in_field("title", AETitle.parse, title)
        sender = None if from_device is None else self.find(from_device)
        if not self._store.delete_delivery_rule(called, None if sender is None else sender.device_id):
            of = "" if sender is None else f" from {sender.title}"
            raise FieldError("title", f"nothing is chosen for {called}{of}", hint="isthmus delivery list")
        self._audit.changed("delivery_unset", f"{called}{'' if sender is None else f' from {sender.title}'}")
        self._directory.reload()
        return {"title": called, "delivery": views.delivery_words(self._directory, called)}

    # -- groups

    def group_add(self, title: str, *, member: list[str]) -> dict[str, Any]:
        """Make a group, or add members to one: a called title whose objects go to each of its members, queued."""
        parsed = in_field("title", AETitle.parse, title)
        held = self._directory.group(parsed)
        return self._save_group("group_add", parsed, [*(held.members if held else ()), *self._members(parsed, member)])

    def group_set(self, title: str, *, member: list[str]) -> dict[str, Any]:
        """Replace the members of a group."""
        parsed = self._group(title).title
        return self._save_group("group_set", parsed, self._members(parsed, member))

    def group_list(self) -> list[dict[str, Any]]:
        """Return every group with its members."""
        return [self._group_row(group) for group in self._directory.groups]

    def group_show(self, title: str) -> dict[str, Any]:
        """Return one group and what is known of each member."""
        return self._group_row(self._group(title))

    def group_remove(self, title: str, *, member: list[str] | None = None) -> dict[str, Any]:
        """Take members out of a group, or forget the whole group. What is queued already is still delivered."""
        group = self._group(title)
        leaving = {self._directory.fold(name) for name in member or ()}
        unknown = leaving - {self._directory.fold(name) for name in group.members}
        if unknown:
            raise FieldError("member", f"{min(unknown)} is no member of {group.title}", hint="isthmus group list")
        left = [name for name in group.members if member and self._directory.fold(name) not in leaving]
        return self._save_group("group_remove", group.title, left)

    # -- bandwidth

    def bandwidth_set(
        self, *, up: str | None = None, down: str | None = None, start: str | None = None, end: str | None = None
    ) -> list[dict[str, Any]]:
        """Cap what goes to the providers (`up`) or comes from them, all day or between two times of the day."""
        if up is None and down is None:
            raise FieldError("up", "no cap is given", hint="--up 50Mbit/s, --down 50Mbit/s or both")
        if (start is None) != (end is None):
            raise FieldError("start", "a time of day has a beginning and an end", hint="--from 07:00 --to 19:00")
        hours = (0, 0)
        if start is not None and end is not None:
            hours = in_field("start", parse_minute, start), in_field("end", parse_minute, end)
            if hours[0] == hours[1]:
                raise FieldError("end", "it would end when it begins", hint="without --from and --to it holds all day")
        given = [
            CapRule(direction, in_field(direction.value, parse_rate, text), *hours)
            for direction, text in ((Direction.UP, up), (Direction.DOWN, down))
            if text is not None
        ]
        places = {(rule.direction, rule.start, rule.end) for rule in given}
        kept = [rule for rule in self._store.bandwidth_rules() if (rule.direction, rule.start, rule.end) not in places]
        return self._save_caps("bandwidth_set", [*kept, *given])

    def bandwidth_show(self) -> list[dict[str, Any]]:
        """Return every cap, those of some hours first: they go before those of all day."""
        return [_cap_row(rule) for rule in sorted(self._store.bandwidth_rules(), key=_cap_order)]

    def bandwidth_clear(self, *, up: bool = False, down: bool = False) -> list[dict[str, Any]]:
        """Lift the caps of one direction, or all; return those that are left."""
        lifted = {direction for direction, chosen in ((Direction.UP, up), (Direction.DOWN, down)) if chosen}
        left = [rule for rule in self._store.bandwidth_rules() if lifted and rule.direction not in lifted]
        return self._save_caps("bandwidth_clear", left)

    # -- inside

    def _allowed(self, called: AETitle) -> frozenset[DeliveryMode] | None:
        """Return what the owner of `called` allows; None: nobody has shown such a device."""
        directory = self._directory
        local = directory.device_called(called)
        if local is not None:
            return frozenset(local.options.modes)
        title = directory.fold(directory.title_of(called))
        named = [device.modes for _, device in directory.offers() if directory.fold(device.title) == title]
        if not named:
            return None
        return frozenset(mode for mode in BOTH_MODES if any(mode in modes for modes in named))

    def _notes_on_mode(self, called: AETitle, mode: DeliveryMode, *, known: bool) -> list[str]:
        if not known:
            return [f"no site has shown {called} yet; the choice holds once one does"]
        if mode is DeliveryMode.LIVE or self._mirrored(called):
            return []
        unknown = f"it is not known yet what {called} takes, and its images are refused until it is"
        return [f"{unknown}; at its site: isthmus device probe {called}"]

    def _mirrored(self, called: AETitle) -> bool:
        """Return whether it is known what the device takes."""
        directory = self._directory
        local = directory.device_called(called)
        if local is not None:
            return bool(directory.mirror.get(local.device_id))
        title = directory.fold(directory.title_of(called))
        return any(device.syntaxes for _, device in directory.offers() if directory.fold(device.title) == title)

    def _rule_row(self, rule: DeliveryRule) -> dict[str, Any]:
        titles = {device.device_id: device.title for device in self._directory.devices}
        allowed = self._allowed(rule.title)
        return {
            "title": rule.title,
            "from_device": None if rule.from_device is None else titles.get(rule.from_device),
            "mode": rule.mode.value,
            "allowed": None if allowed is None else sorted(allowed),
        }

    def _group(self, title: str) -> Group:
        parsed = in_field("title", AETitle.parse, title)
        wanted = self._directory.fold(parsed)
        for group in self._directory.groups:
            if self._directory.fold(group.title) == wanted:
                return group
        raise FieldError("title", f"{parsed} is no group", hint="isthmus group list")

    def _members(self, title: AETitle, member: list[str]) -> list[AETitle]:
        if not member:
            raise FieldError("member", "a group has members", hint="--member TITLE, as often as there are")
        members = [in_field("member", AETitle.parse, name) for name in member]
        for name in members:
            if self._directory.fold(name) == self._directory.fold(title) or self._directory.group(name) is not None:
                raise FieldError("member", f"{name} is a group, and groups hold devices only")
            allowed = self._allowed(name)
            if allowed is not None and DeliveryMode.QUEUED not in allowed:
                raise FieldError("member", f"the owner of {name} does not allow queued delivery", hint="ask its site")
        return members

    def _save_group(self, operation: str, title: AETitle, members: list[AETitle]) -> dict[str, Any]:
        members = list({self._directory.fold(name): name for name in members}.values())
        if len(members) > _MOST_MEMBERS:
            raise FieldError("member", f"a group has {_MOST_MEMBERS} members at the most")
        if self._directory.group(title) is None:
            if clash := self.clash(title, besides=None):
                raise FieldError("title", f"{title} is {clash}", hint="choose another title for the group")
            if any(
                self._directory.fold(alias.shown_as) == self._directory.fold(title) for alias in self._directory.aliases
            ):
                raise FieldError("title", f"{title} is an alias already", hint="choose another title for the group")
            if self._directory.owner_of(title) is not None:
                raise FieldError("title", f"{title} belongs to a device of another site", hint="choose another title")
        group = Group(title, tuple(members))
        self._store.save_group(group)
        self._audit.changed(operation, f"{title}: {' '.join(members) or 'forgotten'}")
        self._directory.reload()
        return self._group_row(group)

    def _group_row(self, group: Group) -> dict[str, Any]:
        notes = []
        for name in group.members:
            notes += self._notes_on_mode(name, DeliveryMode.QUEUED, known=self._allowed(name) is not None)
        where = self.lan_address()
        return {
            "title": group.title,
            "members": list(group.members),
            "host": where.host,
            "port": where.port,
            "notes": notes,
        }

    def _save_caps(self, operation: str, rules: list[CapRule]) -> list[dict[str, Any]]:
        self._store.save_bandwidth_rules(rules)
        rows = self.bandwidth_show()
        self._audit.changed(operation, "; ".join(f"{row['direction']} {row['rate']} {row['when']}" for row in rows))
        self._directory.reload()
        return rows


def _mode(text: str) -> DeliveryMode:
    try:
        return DeliveryMode(text.strip().lower())
    except ValueError as error:
        raise OperatorError(f"'{text}' is no delivery mode", hint="live or queued") from error


def _cap_order(rule: CapRule) -> tuple[str, bool, int, int]:
    return (rule.direction.value, rule.is_always, rule.start, rule.end)


def _cap_row(rule: CapRule) -> dict[str, Any]:
    hours = "all day" if rule.is_always else f"{_clock_time(rule.start)} to {_clock_time(rule.end)}"
    return {
        "direction": rule.direction.value,
        "rate": f"{rule.rate * 8 / 1e6:g} Mbit/s",
        "bytes_per_second": rule.rate,
        "when": hours,
    }


def _clock_time(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
