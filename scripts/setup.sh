#!/bin/sh
# Installs the Debian packages that Cloister needs and that are missing. Says first which, and why.
# Usage: setup.sh [build] [run] [test]; all three when none is given.
set -eu
list=$(dirname "$0")/packages.txt
[ $# -gt 0 ] || set -- build run test
missing=""
while read -r name who why; do
	case "$name" in "" | "#"*) continue ;; esac
	case " $* " in *" $who "*) ;; *) continue ;; esac
	# A command of the package's name may come from elsewhere: some builds of Node.js bring npm along.
	if ! dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' && ! command -v "$name" >/dev/null; then
		[ -n "$missing" ] || echo "These Debian packages are missing:"
		printf '  %-17s %-7s %s\n' "$name" "($who)" "$why"
		missing="$missing $name"
	fi
done <"$list"
[ -n "$missing" ] || exit 0
root=""
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null || {
		echo "setup: not root and no sudo; as root, run: apt-get install --no-install-recommends$missing" >&2
		exit 1
	}
	echo "They will be installed now. That needs root; sudo may ask for your password."
	root=sudo
else
	echo "They will be installed now."
fi
$root apt-get -q update
# shellcheck disable=SC2086 # the list is words
$root env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends $missing
