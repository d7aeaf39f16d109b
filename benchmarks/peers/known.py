"""All that can be compared with us, by their names."""

from __future__ import annotations

from benchmarks.peers import circus, floors, homemade, pm2, s6, supervisord
from benchmarks.peers.peer import Peer

FLOORS: dict[str, Peer] = {floor.name: floor for floor in (floors.Fork(), floors.Spawn())}
"""Those that manage nothing."""

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        supervisord.Supervisord(),
        circus.Circus(),
        pm2.PM2(),
        s6.S6(),
        homemade.Homemade(),
    )
} | FLOORS
