# Sourced by the scripts beside it: makes a fresh Debian 12 able to build and test, as root. Each step looks first and says what it does.
# shellcheck shell=bash

toolchain=1.95.0
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
die() { printf '\n%s\n' "$*" >&2; exit 1; }

need_root() {
    [ "$(id -u)" -eq 0 ] || die "Network namespaces and kernel tables need root: run this again as root (sudo bash $0)."
}

# need_commands COMMAND=PACKAGE...: installs the packages of the commands that are missing.
need_commands() {
    local entry missing=()
    for entry in "$@"; do
        command -v "${entry%%=*}" >/dev/null || missing+=("${entry#*=}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    command -v apt-get >/dev/null || die "Please install by hand, there is no apt-get here: ${missing[*]}"
    apt-get update -q || die "apt-get update failed: are the package sources of this machine reachable?"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" ||
        die "apt-get could not install: ${missing[*]}"
}

# Tools that the daemon and the tests call, and a linker with what it links programs to.
need_tools() {
    [ -e /usr/include/stdio.h ] || need_commands headers-of-the-c-library=libc6-dev
    need_commands ip=iproute2 iptables=iptables ip6tables=iptables ipset=ipset conntrack=conntrack nft=nftables \
        sysctl=procps curl=curl faketime=faketime cc=gcc jq=jq mke2fs=e2fsprogs
    iptables --version | grep -q nf_tables ||
        die "iptables is not the nf_tables variant: update-alternatives --set iptables /usr/sbin/iptables-nft"
}

# Go, which fetches the version that tests/kube/go.mod asks for by itself, as any does from 1.21 on. Debian 12 has 1.19; its backports have
# one that will do. They are looked at for this one installation, the machine's own package sources stay as they are.
need_go() {
    local found package=golang-1.23-go sources options
    PATH="$PATH:/usr/lib/go-1.23/bin:/usr/local/go/bin"
    found=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null)
    [ "$(printf '%s\n' 1.21 "${found#go}" | sort -V | head -n 1)" = 1.21 ] && return
    say "installing $package from Debian 12's backports (found ${found:-no Go}, 1.21 is the oldest that will do)"
    sources=$(mktemp -d)
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian %s main\n' \
        bookworm bookworm-backports >"$sources/list"
    mkdir -p "$sources/lists/partial"
    options=(-o "Dir::Etc::sourcelist=$sources/list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$sources/lists")
    { apt-get "${options[@]}" update -q &&
        DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install -y -q --no-install-recommends "$package"; } ||
        die "$package could not be installed from bookworm-backports. Install any Go from 1.21 on by hand (https://go.dev/dl), put it
into the PATH, then run this again."
    rm -rf "$sources"
}

# kube-apiserver and what belongs to it, for the tests against a real API: minutes the first time, nothing later.
need_control_plane() {
    need_commands openssl=openssl flock=util-linux faketime=faketime
    [ -e /etc/ssl/certs/ca-certificates.crt ] || need_commands update-ca-certificates=ca-certificates
    need_go
    bash "$repository/tests/kube/build.sh"
}

# What the tests of deploy/ judge its files with: systemd's own checks, a linter of shell scripts, a parser of packer's language.
need_deploy_tools() {
    need_commands systemd-analyze=systemd shellcheck=shellcheck modprobe=kmod ipvsadm=ipvsadm unshare=util-linux cc=gcc strip=binutils
    need_pinned_tools
}

# The tools of tests/tools.txt, as built by others, each with its hash: into target/tools, again whenever that file changes.
need_pinned_tools() {
    local into=$repository/target/tools pins=$repository/tests/tools.txt
    PATH="$into/bin:$PATH"
    cmp -s "$pins" "$into/installed" && return
    say "installing the tools of tests/tools.txt into $into"
    python3 -c 'import ensurepip, venv' 2>/dev/null || need_commands python3-venv-is-missing=python3-venv
    rm -rf "$into"
    { python3 -m venv "$into" && "$into/bin/pip" install --disable-pip-version-check --require-hashes --requirement "$pins" &&
        cp "$pins" "$into/installed"; } || die "tests/tools.txt could not be installed into $into: is PyPI (pip's index)
reachable, and does it have them for this machine and its Python?"
}

# The virtual machine of the appliance tests: under a minute the first time.
need_appliance() {
    need_commands mmdebstrap=mmdebstrap mke2fs=e2fsprogs ssh=openssh-client strip=binutils flock=util-linux cpio=cpio xz=xz-utils
    bash "$repository/tests/appliance/build.sh"
}

# Nix itself, which parses; formatter and linter of the Nix files, which no registry has built: once into cargo's own directory, without
# optimisation, which takes half a minute instead of some, and does for these files. jq reads flake.lock.
need_nix_tools() {
    need_commands nix-instantiate=nix-bin jq=jq
    command -v deadnix >/dev/null && command -v nixfmt >/dev/null && return
    say "building deadnix and nixfmt: half a minute, once"
    CARGO_TARGET_DIR="$repository/target/nix-tools" cargo install --debug --locked deadnix@1.3.1 nixfmt_rs@0.5.3 ||
        die "deadnix and nixfmt could not be installed; install them by hand: cargo install --locked deadnix@1.3.1 nixfmt_rs@0.5.3"
}

# A toolchain that satisfies rust-version of Cargo.toml; Debian 12's own is too old.
need_cargo() {
    local wanted found
    [ -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] && PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repository/Cargo.toml")
    found=$(rustc --version 2>/dev/null | cut -d' ' -f2)
    if [ "$(printf '%s\n' "$wanted" "${found:-0}" | sort -V | head -n 1)" != "$wanted" ]; then
        say "installing Rust with rustup (found ${found:-none}, $wanted is the oldest that will do)"
        need_commands curl=curl
        [ -e /etc/ssl/certs/ca-certificates.crt ] || need_commands update-ca-certificates=ca-certificates
        if ! command -v rustup >/dev/null; then
            curl --proto '=https' --tlsv1.2 -fsS https://static.rust-lang.org/rustup/rustup-init.sh |
                sh -s -- -y --quiet --no-modify-path --profile minimal --default-toolchain none ||
                die "rustup could not be installed. Install Rust $wanted or newer by hand (https://rustup.rs), then run this again."
            PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
        fi
        # A fixed version, as lints differ between them; the machine's own default stays what it is.
        rustup toolchain install "$toolchain" --profile minimal || die "rustup could not install Rust $toolchain."
        export RUSTUP_TOOLCHAIN=$toolchain
    fi
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
        rustup component add rustfmt clippy ||
        die "rustfmt and clippy are missing and rustup cannot add them: install them for $(rustc --version)."
}
