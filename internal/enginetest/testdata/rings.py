# Makes the rings of a Swift whose nodes hold one replica each.
# Arguments: folder, JSON list of {"account": port, "container": port, "object": port}.
import json
import sys

from swift.common.ring import RingBuilder

folder, nodes = sys.argv[1], json.loads(sys.argv[2])
for kind in "account", "container", "object":
    builder = RingBuilder(8, len(nodes), 0)
    for n, ports in enumerate(nodes):
        builder.add_dev({"id": n, "region": 1, "zone": n + 1, "ip": "127.0.0.1", "port": ports[kind],
                         "replication_ip": "127.0.0.1", "replication_port": ports[kind],
                         "device": "d1", "weight": 1.0, "meta": ""})
    builder.rebalance()
    builder.get_ring().save("%s/%s.ring.gz" % (folder, kind))
