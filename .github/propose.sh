#!/bin/bash
# propose.sh FOLDER BRANCH TITLE: opens a pull request of FOLDER/change.patch with the text FOLDER/bump.md, and starts
# ci.yml on it: GitHub starts no workflow by itself for what a workflow pushes. A branch that exists was proposed before,
# and is left as it is, whatever became of it. GH_TOKEN: may write contents and pull requests, and start workflows.
set -euo pipefail
folder=$1 branch=$2 title=$3
if git ls-remote --exit-code --heads origin "refs/heads/$branch" >/dev/null; then
  echo "$branch is there already" >&2
  exit 0
fi
base=$(git rev-parse --abbrev-ref HEAD)
git apply --index "$folder/change.patch"
git -c user.name='github-actions[bot]' -c user.email='41898282+github-actions[bot]@users.noreply.github.com' \
  commit --quiet --message "$title"
gh auth setup-git
git push --quiet origin "HEAD:refs/heads/$branch"
gh pr create --base "$base" --head "$branch" --title "$title" --body-file "$folder/bump.md"
gh workflow run ci.yml --ref "$branch"
