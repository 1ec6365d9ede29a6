#!/usr/bin/env bash
# What draws MuJoCo off screen (EGL with Mesa's software renderer), for the tests that film; needs root and apt-get.
# Where it cannot be installed those tests are skipped, and say why.
set -uo pipefail

ldconfig -p | grep -q 'libEGL\.so' && exit 0
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "no EGL here, and it takes root and apt-get to install it" >&2; exit 0; }
{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    libegl1 libegl-mesa0 libgl1-mesa-dri libgl1; } >/dev/null 2>&1 || echo "no EGL here: apt-get could not install it" >&2
