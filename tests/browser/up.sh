#!/usr/bin/env bash
# Chromium, its driver and axe-core for the tests marked `browser`.
#   tests/browser/up.sh DIR     axe-core is kept in DIR; prints the paths of browser, driver and axe-core, a line each
# Installs what is missing. Exits 77 with the reason where that cannot be.
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd)
axe=4.14.1

cannot() { echo "no browser here: $*" >&2; exit 77; }
install() {
  command -v apt-get >/dev/null || cannot "$* cannot be installed, there is no apt-get"
  [ "$(id -u)" = 0 ] || cannot "$* have to be installed by root"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } \
    >"$dir/apt.log" 2>&1 || cannot "apt-get could not install $* ($(tail -n 1 "$dir/apt.log"))"
}

command -v chromium >/dev/null && command -v chromedriver >/dev/null || install chromium chromium-driver fonts-dejavu-core
command -v chromium >/dev/null && command -v chromedriver >/dev/null || cannot "Debian's packages lack the browser or its driver"
if [ ! -s "$dir/axe-$axe.js" ]; then
  command -v npm >/dev/null || install npm
  (cd "$dir" && npm pack --silent "axe-core@$axe" >npm.log 2>&1) || cannot "npm could not fetch axe-core ($(tail -n 1 "$dir/npm.log"))"
  tar -xzf "$dir/axe-core-$axe.tgz" -O package/axe.min.js >"$dir/axe.part" || cannot "axe-core's archive is damaged"
  mv "$dir/axe.part" "$dir/axe-$axe.js"
  rm "$dir/axe-core-$axe.tgz"
fi
command -v chromium chromedriver
echo "$dir/axe-$axe.js"
