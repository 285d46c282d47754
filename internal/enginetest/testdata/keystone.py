# Sets up a Keystone and runs it. One process, since each loads its code for
# seconds. Arguments: configuration file, port, URL with /v3, region.
import os
import sys

import keystone.cmd.manage
import keystone.cmd.cli
import keystone.server.wsgi  # noqa: F401, loaded here for all

conf, port, url, region = sys.argv[1:]


def manage(*arguments):
    child = os.fork()
    if child == 0:
        sys.argv = ["keystone-manage", "--config-file", conf] + list(arguments)
        status = 1
        try:
            status = keystone.cmd.manage.main() or 0
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("keystone-manage %s failed" % arguments[0])


manage("db_sync")
manage("bootstrap", "--bootstrap-password", "admin", "--bootstrap-region-id", region,
       "--bootstrap-public-url", url, "--bootstrap-internal-url", url, "--bootstrap-admin-url", url)
os.environ["OS_KEYSTONE_CONFIG_FILES"] = conf
program = "/usr/bin/keystone-wsgi-public"
sys.argv = [program, "--host", "127.0.0.1", "--port", port]
with open(program) as f:
    exec(compile(f.read(), program, "exec"), {"__name__": "__main__"})
