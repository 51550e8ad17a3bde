#!/usr/bin/env bash
# Print the README's command that is marked <!-- NAME -->: tools/readme_command.sh NAME
set -euo pipefail
cd "$(dirname "$0")/.."
command="$(sed -n "/<!-- $1 -->/,/^\`\`\`\$/p" README.md | sed '/^<!--/d; /^```/d')"
[ -n "$command" ] || { echo "README.md has no command marked '$1'" >&2; exit 1; }
printf '%s\n' "$command"
