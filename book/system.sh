#!/usr/bin/env bash
# Makes sure that Debian or Ubuntu packages are there: installs them when it is root, else says the line that does.
set -euo pipefail

command -v dpkg >/dev/null || { echo "This is no Debian or Ubuntu system: install the like of $* by hand if something is missing."; exit 0; }

if [[ "$*" == chromium ]]; then
  # Ubuntu's chromium package is a stub for a snap: Playwright brings its own browser there.
  command -v chromium >/dev/null && exit 0
  if grep -q '^ID=ubuntu' /etc/os-release; then
    ls ~/.cache/ms-playwright/chromium* >/dev/null 2>&1 && exit 0
    [[ $EUID == 0 ]] && exec .venv/bin/playwright install --with-deps chromium
    echo "The browser tests need Chromium. Install it with: sudo $PWD/.venv/bin/playwright install-deps chromium && .venv/bin/playwright install chromium"
    exit 1
  fi
fi

missing=()
for package in "$@"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[[ ${#missing[@]} == 0 ]] && exit 0
if [[ $EUID != 0 ]]; then
  echo "Some system packages are missing. Install them with: sudo apt-get install -y --no-install-recommends ${missing[*]}"
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
