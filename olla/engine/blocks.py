"""BlockPool: which cache blocks are whose, and which hold a prefix that can be used again.

A block is `block_size` places for keys and values. A full block whose tokens are computed stays
findable by them and by all that came before, under the adapter they were computed with, until
its place is wanted: the least recently used goes first. Knows block numbers, no tensors.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from olla.engine.image_places import identities
from olla.engine.sequence import Sequence

BLOCK_SIZE = 16

_Key = tuple[int, tuple[int, ...]]
"""What came before, as its serial number, and the block's tokens; of images, what they show."""


@dataclass(slots=True)
class Block:
    """`serial` names the block's content and all before it; None while it is not findable."""

    number: int
    num_users: int = 0
    serial: int | None = None
    key: _Key | None = None


class BlockPool:
    def __init__(self, num_blocks: int, block_size: int = BLOCK_SIZE) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self._blocks = [Block(number) for number in range(num_blocks)]
        self._empty = deque(range(num_blocks))
        self._unused: OrderedDict[int, None] = OrderedDict()  # findable, least recently used first
        self._found: dict[_Key, int] = {}
        self._num_serials = 0

    @property
    def num_free(self) -> int:
        """Blocks that a sequence could have now."""
        return len(self._empty) + len(self._unused)

    @property
    def num_tokens(self) -> int:
        """The longest sequence that fits when it has everything."""
        return self.num_blocks * self.block_size

    def reuse_prefix(self, sequence: Sequence) -> None:
        """Give a sequence without blocks those that hold the beginning of its tokens already.

        At least one token is left to compute, since its logits are wanted; all of them are if the
        prompt is to be scored.
        """
        assert not sequence.block_table
        # Serials of blocks are positive; each adapter's beginning has a number of its own.
        sequence.num_committed, sequence.prefix_serial = 0, -sequence.adapter
        num_reusable = 0 if sequence.scores_prompt else len(sequence.tokens) - 1
        for index in range(num_reusable // self.block_size):
            number = self._found.get((sequence.prefix_serial, self._tokens(sequence, index)))
            if number is None:
                break
            self._blocks[number].num_users += 1
            self._unused.pop(number, None)
            sequence.block_table.append(number)
            self._advance(sequence, number)
        sequence.num_computed = len(sequence.block_table) * self.block_size

    def reserve(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give the sequence places for `num_tokens` more than are computed; False: none left."""
        needed = -(-(sequence.num_computed + num_tokens) // self.block_size)
        wanted = needed - len(sequence.block_table)
        if wanted > self.num_free:
            return False
        sequence.block_table += [self._new() for _ in range(wanted)]
        return True

    def commit(self, sequence: Sequence) -> None:
        """Make the blocks that the sequence has filled and computed since last time findable."""
        for index in range(sequence.num_committed, sequence.num_computed // self.block_size):
            key = (sequence.prefix_serial, self._tokens(sequence, index))
            block = self._blocks[sequence.block_table[index]]
            # Two sequences may have computed the same at once; the first one's copy is found.
            if key not in self._found:
                self._num_serials += 1
                block.serial, block.key = self._num_serials, key
                self._found[key] = block.number
            self._advance(sequence, self._found[key])

    def release(self, sequence: Sequence) -> None:
        """Take a sequence's blocks back; those that are findable stay so while they may."""
        # Its last block first, so that a prefix goes after what builds on it.
        for number in reversed(sequence.block_table):
            block = self._blocks[number]
            block.num_users -= 1
            if block.num_users == 0:
                if block.serial is None:
                    self._empty.appendleft(number)
                else:
                    self._unused[number] = None
        sequence.block_table.clear()
        sequence.num_computed = 0

    def _tokens(self, sequence: Sequence, index: int) -> tuple[int, ...]:
        start = index * self.block_size
        tokens = sequence.tokens[start : start + self.block_size]
        return identities(tokens, sequence.images, start)

    def _advance(self, sequence: Sequence, number: int) -> None:
        """The next block of the sequence holds what block `number` holds."""
        serial = self._blocks[number].serial
        assert serial is not None, "only blocks with a serial are found"
        sequence.num_committed += 1
        sequence.prefix_serial = serial

    def _new(self) -> int:
        number = self._empty.popleft() if self._empty else self._evict()
        self._blocks[number].num_users = 1
        return number

    def _evict(self) -> int:
        number, _ = self._unused.popitem(last=False)
        block = self._blocks[number]
        assert block.key is not None, "only findable blocks are kept unused"
        del self._found[block.key]
        block.serial = block.key = None
        return number
