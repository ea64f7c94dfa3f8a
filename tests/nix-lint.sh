#!/usr/bin/env bash
# Everything about the Nix files that needs neither nixpkgs nor a build: they parse, are formatted, hold nothing dead, name files that git
# knows (others do not exist for a flake), flake.lock locks what flake.nix asks for, and nixos/lib/ipv4.nix calculates right. statix, in no
# package registry, runs where it is installed, and in nix flake check. With --self-test it checks itself on files that are wrong.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 1

# lint DIR: everything about the Nix files of a git repository.
lint() (
    cd "$1" || exit 1
    failed=0
    complain() { printf '%s\n' "$*" >&2; failed=1; }

    mapfile -t known < <(git ls-files --cached --others --exclude-standard)
    files=()
    for file in "${known[@]}"; do
        if [[ $file == *.nix && -e $file ]]; then files+=("$file"); fi
    done
    if ((${#files[@]} == 0)); then
        complain "$1 holds no Nix file that git knows: is this the repository, and are the files added?"
        exit 1
    fi

    nixfmt --check "${files[@]}" || complain "Not formatted, or no Nix: nixfmt FILE puts the first right."
    deadnix --fail "${files[@]}" || complain "Something is never used: take it out."
    # A store of nothing: neither is one needed, nor made.
    nix-instantiate --store dummy:// --parse "${files[@]}" >/dev/null || complain "Nix itself cannot parse that."
    if [[ -e tests/nixos/ipv4.nix ]]; then
        wrong=$(nix-instantiate --store dummy:// --eval --strict tests/nixos/ipv4.nix) && [[ $wrong == "[ ]" ]] ||
            complain "nixos/lib/ipv4.nix does not calculate as its examples say (tests/nixos/ipv4.nix): $wrong"
    fi
    if command -v statix >/dev/null; then
        statix check ${statix_config:+-c "$statix_config"} -o errfmt . || complain "statix has something to say."
    else
        echo "statix is not installed: its lints are left to nix flake check"
    fi

    # Paths that are written out, without those that a string is put into.
    for file in "${files[@]}"; do
        directory=$(dirname "$file")
        while IFS= read -r path; do
            target=$(realpath -m --relative-to=. "$directory/$path")
            [[ $target == . ]] && continue
            if ! printf '%s\n' "${known[@]}" | awk -v path="$target" '$0 == path || index($0, path "/") == 1 { found = 1 } END { exit !found }'; then
                complain "$file: $path is $target, which git does not know, so that it does not exist for a flake: git add it, or correct the path."
            fi
        done < <(sed -E "s/(^|[[:space:]])#.*//; s/\"[^\"]*\"//g" "$file" |
            grep -oE '(^|[[(=[:space:]])\.\.?(/[A-Za-z0-9._-]+)+' | sed -E 's/^[^.]//')
    done

    if [[ -e flake.nix ]]; then
        asked=$(sed -nE 's/^ *([a-z0-9-]+)\.url = "([^"]+)";.*/\1 \2/p' flake.nix | sort)
        locked=$(jq -r '.nodes as $nodes | $nodes[.root].inputs | to_entries[] | $nodes[.value].original as $o
            | "\(.key) \($o.type):\($o.owner)/\($o.repo)\(if $o.ref then "/" + $o.ref else "" end)"' flake.lock | sort)
        if [[ -z $asked || $asked != "$locked" ]]; then
            complain "flake.nix asks for
$asked
and flake.lock locks
$locked
Run nix flake lock."
        fi
        jq -e '.version == 7 and ([.nodes | to_entries[] | select(.key != "root") | .value.locked
            | (.rev | test("^[0-9a-f]{40}$")) and (.narHash | test("^sha256-.{44}$")) and (.lastModified > 0)] | all)' flake.lock >/dev/null ||
            complain "flake.lock: an input has no rev, narHash or lastModified. Run nix flake lock."
    fi
    # What was made by evaluation stands here as files; by what it was made from one sees whether it is older than that.
    if [[ -e tests/nixos/evaluated.sha256 ]]; then
        sha256sum --quiet --check tests/nixos/evaluated.sha256 &&
            diff <(printf '%s\n' "${known[@]}" | grep -E '^(nixos|deploy/systemd|deploy/sysctl.d|deploy/modules-load.d)/' | sort) \
                <(cut -d' ' -f3- tests/nixos/evaluated.sha256 | sort) ||
            complain "tests/appliance/rendered and docs/nixos-options.md are older than that: tests/nix-eval.sh --update NIXPKGS CRANE"
    fi
    if ((failed == 0)); then echo "${#files[@]} Nix files: parsed, formatted, nothing dead, no path that leads nowhere"; fi
    exit "$failed"
)

# A wrong file after the other, in a repository of its own: each must be refused, with its name.
self_test() {
    local place outcome failed=0
    place=$(mktemp -d)
    trap 'rm -rf "$place"' RETURN
    git -C "$place" init -q
    # expect WHAT PIECE: the linter fails, and says that.
    expect() {
        if outcome=$(lint "$place" 2>&1); then
            echo "self-test: $1 was not refused" >&2
            failed=1
        elif [[ $outcome != *"$2"* ]]; then
            printf 'self-test: %s was refused, but without "%s":\n%s\n' "$1" "$2" "$outcome" >&2
            failed=1
        fi
    }
    expect "a repository without Nix files" "no Nix file"
    printf '{ a = ./b.nix; }\n' >"$place/a.nix"
    expect "a path that leads nowhere" "a.nix: ./b.nix is b.nix, which git does not know"
    printf '{ }\n' >"$place/b.nix"
    outcome=$(lint "$place" 2>&1) || { printf 'self-test: sound files were refused:\n%s\n' "$outcome" >&2; failed=1; }
    printf 'b.nix\n' >"$place/.gitignore"
    expect "a path to a file that git ignores" "a.nix: ./b.nix"
    rm "$place/.gitignore"
    printf '{ a=1; }\n' >"$place/b.nix"
    expect "an unformatted file" "b.nix"
    printf '{ a = ; }\n' >"$place/b.nix"
    expect "a file that is no Nix" "b.nix"
    printf 'let\n  unused = 1;\nin\n{ }\n' >"$place/b.nix"
    expect "a dead binding" "unused"
    mkdir -p "$place/tests/nixos" && printf '[ "an example" ]\n' >"$place/tests/nixos/ipv4.nix"
    expect "an example that fails" "an example"
    rm -r "$place/tests"
    printf '{ }\n' >"$place/b.nix"
    printf '{\n  inputs = {\n    other.url = "github:a/b";\n  };\n}\n' >"$place/flake.nix"
    cp flake.lock "$place/flake.lock"
    expect "a lock of other inputs" "github:a/b"
    cp flake.nix "$place/flake.nix"
    mkdir "$place/nixos" && printf '{ }\n' >"$place/nixos/default.nix"
    jq '.nodes.crane.locked.narHash = ""' flake.lock >"$place/flake.lock"
    expect "a lock without a hash" "an input has no rev"
    ((failed == 0)) && echo "the linter refuses what it should"
    return "$failed"
}

cd "$here/.." || exit 1
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
# need TOOL HOW
need() { command -v "$1" >/dev/null || { echo "$1 is missing: $2" >&2; exit 1; }; }
need nixfmt "cargo install --locked nixfmt_rs"
need deadnix "cargo install --locked deadnix"
need nix-instantiate "apt-get install nix-bin"
need jq "apt-get install jq"
statix_config=$PWD/nixos/statix.toml

case ${1-} in
    "") lint . ;;
    --self-test) self_test ;;
    *) lint "$1" ;;
esac
