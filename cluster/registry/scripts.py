"""What Redis runs by itself: each write of a lease is compare-and-set.

A lease is ``epoch node JSON`` in one string with an end; what does not begin like that is nobody's.  Copies and nodes
are in a hash with an index of when each ends.  Numbers leave Lua as text: its own notation rounds large ones.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cluster.registry.records import MAX_BYTES, MAX_EPOCH

EPOCH_SECONDS: Final = 86400
"""The epoch outlives the lease by so long."""


class Script:
    """Lua text and the digest that Redis knows it by."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


_LEASE: Final = f"""
local function read(key)
  local value = redis.pcall('GET', key)
  if type(value) ~= 'string' or #value > {MAX_BYTES} then return 0, nil, '' end
  local epoch, node = string.match(value, '^(%d+) ([%w._-]+) {{')
  if not epoch or #epoch > 15 or tonumber(epoch) < 1 then return 0, nil, '' end
  return tonumber(epoch), node, value
end
local function text(number) return string.format('%.0f', number) end
"""

CLAIM: Final = Script(
    _LEASE
    + f"""
-- KEYS lease, counter; ARGV node, JSON, milliseconds, over, epoch, floor
local present, owner, value = read(KEYS[1])
local node, over, epoch, floor = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local counter = redis.pcall('GET', KEYS[2])
if type(counter) == 'string' and #counter <= 15 and string.match(counter, '^%d+$') then
  counter = tonumber(counter)
else
  counter = 0
end
local highest = math.max(counter, present)
local granted
if not owner then
  if epoch > 0 and epoch >= highest then granted = epoch else granted = highest + 1 end
elseif owner == node then
  if epoch > 0 then granted = math.max(present, epoch) else granted = highest + 1 end
elseif epoch > 0 and (epoch > present or (epoch == present and node > owner)) then
  granted = epoch
elseif over == present then
  granted = highest + 1
else
  return {{0, value}}
end
if epoch == 0 then granted = math.max(granted, floor + 1) end
if granted > {MAX_EPOCH} then granted, counter = math.max(epoch, floor + 1), 0 end
redis.call('SET', KEYS[1], text(granted) .. ' ' .. node .. ' ' .. ARGV[2], 'PX', ARGV[3])
redis.call('SET', KEYS[2], text(math.max(granted, counter)), 'EX', {EPOCH_SECONDS})
return {{1, text(granted)}}
"""
)

RENEW: Final = Script(
    _LEASE
    + f"""
-- KEYS lease, counter; ARGV node, epoch, milliseconds
local present, owner, value = read(KEYS[1])
if owner ~= ARGV[1] or present ~= tonumber(ARGV[2]) then return value end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if redis.call('EXPIRE', KEYS[2], {EPOCH_SECONDS}) == 0 then
  redis.call('SET', KEYS[2], text(present), 'EX', {EPOCH_SECONDS})
end
return 1
"""
)

RELEASE: Final = Script(
    _LEASE
    + """
-- KEYS lease; ARGV node, epoch
local present, owner = read(KEYS[1])
if owner ~= ARGV[1] or present ~= tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[1])
return 1
"""
)

_INDEX: Final = """
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function usable(index, hash)
  local one, other = redis.call('TYPE', index).ok, redis.call('TYPE', hash).ok
  return (one == 'zset' or one == 'none') and (other == 'hash' or other == 'none')
end
local function list(index, hash, most)
  if not usable(index, hash) then return {} end
  local names = redis.call('ZRANGEBYSCORE', index, '(' .. string.format('%.0f', now()), '+inf', 'LIMIT', 0, most)
  if #names == 0 then return {} end
  return redis.call('HMGET', hash, unpack(names))
end
"""

PUT: Final = Script(
    _INDEX
    + """
-- KEYS index, hash; ARGV name, JSON, milliseconds, most; 0: too many, 1: new, 2: was there
if not usable(KEYS[1], KEYS[2]) then redis.call('DEL', KEYS[1], KEYS[2]) end
local time = now()
local ended = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', time), 'LIMIT', 0, 32)
if #ended > 0 then
  redis.call('ZREM', KEYS[1], unpack(ended))
  redis.call('HDEL', KEYS[2], unpack(ended))
end
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not known and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
redis.call('ZADD', KEYS[1], string.format('%.0f', time + ARGV[3]), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) < tonumber(ARGV[3]) then redis.call('PEXPIRE', key, ARGV[3]) end
end
return known and 2 or 1
"""
)

DROP: Final = Script(
    _INDEX
    + """
-- KEYS index, hash; ARGV name
if not usable(KEYS[1], KEYS[2]) then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('ZREM', KEYS[1], ARGV[1])
"""
)

LIST: Final = Script(
    _INDEX
    + """
-- KEYS index, hash; ARGV most
return list(KEYS[1], KEYS[2], ARGV[1])
"""
)

LOOKUP: Final = Script(
    _LEASE
    + _INDEX
    + """
-- KEYS lease, index, hash; ARGV most
local _, _, value = read(KEYS[1])
return {value, list(KEYS[2], KEYS[3], ARGV[1])}
"""
)
