#!/usr/bin/env bash
# Makes a SmartNat box of a systemd distribution, brings it up to date, or removes SmartNat from it. --help tells more.
set -euo pipefail
umask 022
export LC_ALL=C PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=/usr/local/bin
units=/etc/systemd/system
settings=/etc/smartnat/smartnat.env
kubeconfig=/etc/smartnat/kubeconfig
proxy_kubeconfig=/etc/kubeconfig
proxy_settings=/etc/smartnat/kube-proxy.env
smartnat_units=(smartnat-border.service smartnat.service smartnat-kubeconfig.path smartnat-kubeconfig.service)
proxy_units=(kube-proxy.service kube-proxy-kubeconfig.path kube-proxy-kubeconfig.service)
# Where a file of deploy/ goes.
common_files=(
    modules-load.d/smartnat.conf:/etc/modules-load.d/smartnat.conf
    sysctl.d/60-smartnat.conf:/etc/sysctl.d/60-smartnat.conf
    networkd/50-smartnat.conf:/etc/systemd/networkd.conf.d/50-smartnat.conf
    networkd/05-kube-ipvs0.network:/etc/systemd/network/05-kube-ipvs0.network
)

help() {
    cat <<END
Usage: deploy/install.sh [OPTIONS]                 installs, or brings up to date what differs
       deploy/install.sh --uninstall [--purge]     removes SmartNat and kube-proxy, the kernel's state included

What is not given stays as it is installed. A second run with the same options changes and restarts nothing.

  --binary PATH|URL              smartnat-manager
  --binary-sha256 HEX            its checksum; required with a URL
  --kube-proxy PATH|URL          kube-proxy of the cluster's version, for Mappings of mode service
  --kube-proxy-sha256 HEX        its checksum; required with a URL
  --without-kube-proxy           every Mapping is in mode direct
  --kubeconfig FILE              smartnat.kubeconfig of deploy/kubeconfig.sh; becomes $kubeconfig
  --kube-proxy-kubeconfig FILE   kube-proxy.kubeconfig of it; becomes $proxy_kubeconfig
  --gateway-interface NAME       SNCTRLR_DEFAULT_GW_INTERFACE
  --interfaces-pattern REGEX     SNCTRLR_INTERFACES_PATTERN
  --set NAME=VALUE               any other setting of docs/configuration.md; may be repeated
  --nodeport-addresses LIST      where kube-proxy serves NodePorts, e.g. 10.0.0.5/32 (default: nowhere). Never an external address
  --no-start                     for images: install and enable, start nothing; settings and kubeconfigs may follow later
  --dry-run                      say what would be done, change nothing
  --force                        also where it would refuse for a reason that it calls a risk; with --uninstall, also where the cluster
                                 would then be open
  --purge                        with --uninstall: settings and kubeconfigs too
  -h, --help                     this text

Exit codes: 0 done, 1 failed (and an earlier installation is back as it was), 2 wrong command line, 3 refused (nothing was changed),
4 installed, and smartnat-manager check found a failure.
END
}

say() { printf '%s\n' "$*"; }
warn() { printf 'install.sh: warning: %s\n' "$*" >&2; }
die() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
usage() { printf 'install.sh: %s\nTry deploy/install.sh --help.\n' "$*" >&2; exit 2; }

binary='' binary_sum='' proxy='' proxy_sum='' with_proxy=yes new_kubeconfig='' new_proxy_kubeconfig='' nodeports=''
start=yes dry='' force='' uninstall='' purge='' assignments=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) help; exit 0 ;;
        --binary | --binary-sha256 | --kube-proxy | --kube-proxy-sha256 | --kubeconfig | --kube-proxy-kubeconfig | \
            --gateway-interface | --interfaces-pattern | --set | --nodeport-addresses)
            if [ $# -lt 2 ] || [ -z "$2" ]; then usage "$1 needs a value"; fi
            ;;
    esac
    case $1 in
        --binary) binary=$2; shift 2 ;;
        --binary-sha256) binary_sum=$2; shift 2 ;;
        --kube-proxy) proxy=$2; shift 2 ;;
        --kube-proxy-sha256) proxy_sum=$2; shift 2 ;;
        --without-kube-proxy) with_proxy=''; shift ;;
        --kubeconfig) new_kubeconfig=$2; shift 2 ;;
        --kube-proxy-kubeconfig) new_proxy_kubeconfig=$2; shift 2 ;;
        --gateway-interface) assignments+=("SNCTRLR_DEFAULT_GW_INTERFACE=$2"); shift 2 ;;
        --interfaces-pattern) assignments+=("SNCTRLR_INTERFACES_PATTERN=$2"); shift 2 ;;
        --set)
            [[ $2 =~ ^SNCTRLR_[A-Z_]+= ]] || usage "--set $2: it is SNCTRLR_NAME=VALUE, see docs/configuration.md"
            assignments+=("$2"); shift 2 ;;
        --nodeport-addresses) nodeports=$2; shift 2 ;;
        --no-start) start=''; shift ;;
        --dry-run) dry=yes; shift ;;
        --force) force=yes; shift ;;
        --uninstall) uninstall=yes; shift ;;
        --purge) purge=yes; shift ;;
        *) usage "unknown option $1" ;;
    esac
done
[ -z "$purge" ] || [ -n "$uninstall" ] || usage "--purge goes with --uninstall"
[ -n "$with_proxy" ] || [ -z "$proxy$proxy_sum$new_proxy_kubeconfig$nodeports" ] ||
    usage "--without-kube-proxy excludes the options of kube-proxy"
for sum in "$binary_sum" "$proxy_sum"; do
    [[ -z $sum || $sum =~ ^[0-9a-fA-F]{64}$ ]] || usage "$sum is no SHA-256 checksum (64 hexadecimal digits)"
done
is_url() { [[ $1 =~ ^https?:// ]]; }
! is_url "$binary" || [ -n "$binary_sum" ] || usage "--binary $binary: a URL needs --binary-sha256"
! is_url "$proxy" || [ -n "$proxy_sum" ] || usage "--kube-proxy $proxy: a URL needs --kube-proxy-sha256"

# --- refusals: all of them at once, before anything is changed
reasons=()
refuse() { reasons+=("$1"); }
# A reason that --force overrules.
risk() { if [ -n "$force" ]; then warn "$1 (going on: --force)"; else refuse "$1. A risk: --force goes on all the same"; fi; }
refuse_now() {
    [ ${#reasons[@]} -gt 0 ] || return 0
    printf 'install.sh: refused, nothing was changed:\n' >&2
    printf '  - %s\n' "${reasons[@]}" >&2
    exit 3
}

active() { systemctl is-active --quiet "$1" 2>/dev/null; }
enabled() { systemctl is-enabled --quiet "$1" 2>/dev/null; }
# Whether an image or a box is at work: systemd runs here.
booted() { [ -d /run/systemd/system ]; }

check_system() {
    [ "$(id -u)" -eq 0 ] || refuse "this needs root: sudo $0"
    command -v systemctl >/dev/null || refuse "there is no systemd here (systemctl): its units are what is installed"
    [ -z "$start" ] || booted || refuse "systemd is not the init here (no /run/systemd/system); for an image, use --no-start"
    if booted && systemd-detect-virt --quiet --container 2>/dev/null; then
        refuse "this is a container: a border needs a kernel of its own. Nodes of a cluster: deploy/daemonset"
    fi
    refuse_now
}

# machine FILE: what an ELF file is for, as uname -m says it; empty for what is none.
machine() {
    [ "$(head -c 4 "$1" | od -An -tx1 | tr -d ' \n')" = 7f454c46 ] || return 0
    case $(od -An -tx1 -j18 -N2 "$1" | tr -d ' \n') in
        3e00) echo x86_64 ;;
        b700) echo aarch64 ;;
        *) echo "another machine" ;;
    esac
}

# check_program OPTION FILE SUM WORDS: it has this checksum, runs here, and calls itself so; its version is in $version then.
version=''
check_program() {
    local option=$1 file=$2 sum=$3 words=$4 found
    version=''
    [ -f "$file" ] || { refuse "$option $file: no such file"; return; }
    if [ -n "$sum" ]; then
        found=$(sha256sum "$file" | cut -d' ' -f1)
        [ "$found" = "${sum,,}" ] || { refuse "$option $file: its SHA-256 is $found, expected ${sum,,}: get it again from where the sum is from"; return; }
    fi
    found=$(machine "$file")
    [ -n "$found" ] || { refuse "$option $file: this is no program (ELF)"; return; }
    [ "$found" = "$(uname -m)" ] || { refuse "$option $file: it is for $found, this box is $(uname -m)"; return; }
    if [ ! -x "$file" ]; then
        cp "$file" "$work/program" && chmod 755 "$work/program" && file=$work/program
    fi
    found=$("$file" --version 2>&1) || { refuse "$option $file: it does not run here: ${found:0:300}"; return; }
    [[ $found =~ ^$words([0-9][0-9.]*) ]] || { refuse "$option $file: it calls itself ${found:0:100}, not $words..."; return; }
    version=${BASH_REMATCH[1]}
}

fetch() { # OPTION URL SUM DEST
    say "fetching $2"
    curl --proto '=https,http' -fsSL --retry 3 -o "$4" "$2" || die "$1 $2 could not be fetched (see above)"
}

# The names of interfaces that the pattern calls external.
externals() {
    local gateway pattern name
    gateway=$(setting SNCTRLR_DEFAULT_GW_INTERFACE) pattern=$(setting SNCTRLR_INTERFACES_PATTERN)
    [ -n "$pattern" ] || return 0
    for name in /sys/class/net/*; do
        name=${name##*/}
        [ "$name" = "$gateway" ] || [ "$name" = lo ] || [[ ! $name =~ ^($pattern)$ ]] || printf '%s\n' "$name"
    done
}

check_host() {
    local name state
    if command -v iptables >/dev/null && iptables --version 2>/dev/null | grep -q legacy; then
        refuse "iptables is the legacy variant: its rules and those of nf_tables would not see each other. On Debian:
    update-alternatives --set iptables /usr/sbin/iptables-nft; update-alternatives --set ip6tables /usr/sbin/ip6tables-nft"
    fi
    if [ -n "$with_proxy" ] && [ -n "$start" ]; then
        for name in ip_vs dummy; do
            [ -d "/sys/module/$name" ] || modprobe -n -q "$name" 2>/dev/null ||
                refuse "this kernel ($(uname -r)) has no module $name, which kube-proxy in IPVS mode needs: boot a distribution's stock kernel,
    or use --without-kube-proxy and mode direct"
        done
    fi
    if [ -n "$with_proxy" ] && [ -e "$units/kube-proxy.service" ] && ! grep -q 'beside SmartNat' "$units/kube-proxy.service"; then
        risk "$units/kube-proxy.service is not of this installer and would be replaced (mode direct: --without-kube-proxy)"
    fi
    if [ -z "$with_proxy" ] && [ -e "$units/kube-proxy.service" ] && grep -q 'beside SmartNat' "$units/kube-proxy.service"; then
        refuse "--without-kube-proxy, but kube-proxy is installed here by this script: --uninstall first, which also takes it out of the kernel"
    fi
    booted || return 0
    ! active kubelet || risk "a kubelet runs here: this is a node of a cluster, and its kube-proxy and network plugin are others'. Nodes:
    deploy/daemonset"
    ! active firewalld || warn "firewalld is active: its rules may reject what SmartNat maps. Disable it, or allow forwarding in its zones"
    ! active ufw || warn "ufw is active: it may reject what SmartNat maps. Disable it, or allow forwarding"
    if active NetworkManager && command -v nmcli >/dev/null; then
        while read -r name; do
            state=$(nmcli -g GENERAL.STATE device show "$name" 2>/dev/null || true)
            [ -z "$state" ] || [[ $state == 10* ]] ||
                risk "NetworkManager manages the external interface $name: it may take away addresses and routes, and it puts the interface's
    subnet and default route into the main table. Give $name to systemd-networkd (docs/install.md) and: nmcli device set $name managed no"
        done < <(externals)
    fi
}

# --- settings: the administrator's file with what was given on the command line
setting() { # NAME: its value as it will be
    { [ ! -e "$work/settings" ] || sed -n "s/^$1=//p" "$work/settings"; } | tail -n 1 | sed "s/^'\(.*\)'\$/\1/; s/^\"\(.*\)\"\$/\1/"
}

assign() { # FILE NAME VALUE: in its place, also where it is commented out there; else at the end
    [[ $3 != *$'\n'* && $3 != *"'"* ]] || usage "$2: a value holds no line break and no single quote"
    local line="$2=$3"
    [[ $3 =~ ^[A-Za-z0-9_./:,@+-]*$ ]] || line="$2='$3'"
    NAME=$2 LINE=$line awk '
        function is(l, n) { return index(l, n "=") == 1 }
        { lines[NR] = $0; if (is($0, ENVIRON["NAME"])) at = NR; if (!hint && is($0, "#" ENVIRON["NAME"])) hint = NR }
        END {
            if (!at) at = hint
            for (n = 1; n <= NR; n++) if (n == at) print ENVIRON["LINE"]; else print lines[n]
            if (!at) print ENVIRON["LINE"]
        }' "$1" >"$1.new"
    mv "$1.new" "$1"
}

prepare_settings() {
    local entry
    cat "$([ -e "$settings" ] && echo "$settings" || echo "$here/smartnat.env")" >"$work/settings"
    for entry in ${assignments[@]+"${assignments[@]}"}; do assign "$work/settings" "${entry%%=*}" "${entry#*=}"; done
    if [ -n "$nodeports" ]; then
        if [ -e "$proxy_settings" ]; then cat "$proxy_settings"; else echo "# Read by kube-proxy.service."; fi >"$work/proxy-settings"
        assign "$work/proxy-settings" KUBE_PROXY_NODEPORT_ADDRESSES "$nodeports"
    fi
}

# check_settings PROGRAM: as the daemon would read them.
check_settings() {
    local said gateway
    gateway=$(setting SNCTRLR_DEFAULT_GW_INTERFACE)
    if [ -z "$gateway" ] || [ -z "$(setting SNCTRLR_INTERFACES_PATTERN)" ]; then
        [ -z "$start" ] || refuse "name the interfaces: --gateway-interface eth0 --interfaces-pattern 'eth[1-9][0-9]*'"
        return 0
    fi
    [ -n "$1" ] || return 0
    mkdir -p "$work/none"
    printf 'interfaces: {"%s": {addresses: [192.0.2.1/24]}}\n' "$gateway" >"$work/host.yaml"
    said=$(env -i PATH="$PATH" SNCTRLR_ENV_FILE="$work/settings" "$1" plan --manifests "$work/none" --host "$work/host.yaml" 2>&1 >/dev/null) ||
        refuse "the settings cannot be used: $said"
    [ -z "$start" ] || [ -e "/sys/class/net/$gateway" ] || risk "there is no interface $gateway here (--gateway-interface)"
}

check_kubeconfigs() {
    local pair
    for pair in "--kubeconfig:$new_kubeconfig:$kubeconfig" ${with_proxy:+"--kube-proxy-kubeconfig:$new_proxy_kubeconfig:$proxy_kubeconfig"}; do
        IFS=: read -r option given installed <<<"$pair"
        if [ -n "$given" ]; then
            grep -qs '^kind: *Config\|"kind": *"Config"' "$given" || refuse "$option $given: no such kubeconfig; deploy/kubeconfig.sh makes one"
        elif [ -n "$start" ] && [ ! -s "$installed" ]; then
            refuse "$installed is missing: give it by $option FILE; deploy/kubeconfig.sh makes it"
        fi
    done
}

# check_proxy_version PROGRAM VERSION: has IPVS, and fits the cluster where that can be asked.
check_proxy_version() {
    local minor server answer
    minor=$(cut -d. -f2 <<<"$2")
    [ "$minor" -lt 43 ] || { refuse "kube-proxy $2 has no IPVS mode any more (gone in 1.43): use mode direct and --without-kube-proxy"; return; }
    [ "$minor" -lt 40 ] || warn "kube-proxy $2: from 1.40 on IPVS mode is off by default and has to be enabled by a feature gate
    (KUBE_PROXY_EXTRA_ARGS in $proxy_settings)"
    [ -n "$start" ] && [ -n "$1" ] || return 0
    answer=$(env -i PATH="$PATH" SNCTRLR_ENV_FILE="$work/settings" "$1" --kubeconfig "${new_kubeconfig:-$kubeconfig}" check 2>/dev/null || true)
    server=$(sed -n 's/.*Kubernetes v1\.\([0-9]*\).* at .* answers.*/\1/p' <<<"$answer" | head -n 1)
    [ -n "$server" ] || { warn "the API server does not answer now: whether kube-proxy $2 fits the cluster's version is not known"; return 0; }
    [ "$minor" -le "$server" ] || risk "kube-proxy $2 is newer than the cluster (1.$server): take the cluster's version, or up to three older"
    [ "$minor" -ge $((server - 3)) ] || risk "kube-proxy $2 is more than three minor versions older than the cluster (1.$server)"
}

# --- packages: only commands that are missing
packages() {
    local entry missing=() wanted
    local debian="iptables:iptables ipset:ipset nft:nftables ip:iproute2 modprobe:kmod conntrack:conntrack"
    local dnf="iptables:iptables-nft ipset:ipset nft:nftables ip:iproute modprobe:kmod conntrack:conntrack-tools"
    if is_url "$binary" || is_url "$proxy"; then debian+=" curl:curl"; dnf+=" curl:curl"; fi
    if [ -n "$with_proxy" ]; then debian+=" ipvsadm:ipvsadm"; dnf+=" ipvsadm:ipvsadm"; fi
    if command -v apt-get >/dev/null; then wanted=$debian; else wanted=$dnf; fi
    for entry in $wanted; do command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}"); done
    # A kubeconfig without a CA of its own means those that every system knows.
    if [ -n "$new_kubeconfig" ] && ! grep -qs certificate-authority "$new_kubeconfig" && [ ! -e /etc/ssl/certs/ca-certificates.crt ] &&
        [ ! -e /etc/pki/tls/certs/ca-bundle.crt ]; then
        missing+=(ca-certificates)
    fi
    if [ -z "$(clock)" ]; then
        if command -v apt-get >/dev/null; then missing+=(systemd-timesyncd); else missing+=(chrony); fi
    fi
    [ ${#missing[@]} -gt 0 ] || return 0
    changed+=(packages)
    if [ -n "$dry" ]; then say "would install the packages ${missing[*]}"; return; fi
    say "installing the packages ${missing[*]}"
    if command -v apt-get >/dev/null; then
        apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
    elif command -v dnf >/dev/null; then
        dnf install -y -q "${missing[@]}"
    else
        false
    fi || die "these packages could not be installed: ${missing[*]}. Install them by hand, then run this again"
}

# The unit that keeps the clock right: one that is at work, else one that could be.
clock() {
    local unit
    for unit in chrony chronyd ntpsec ntp ntpd openntpd systemd-timesyncd; do
        if active "$unit" || enabled "$unit"; then echo "$unit"; return; fi
    done
    for unit in systemd-timesyncd chronyd; do
        if systemctl cat "$unit.service" >/dev/null 2>&1; then echo "$unit"; return; fi
    done
}

# --- files: each replaced in one step; what was there before is kept until the end
changed=() # what differs from before: paths
pending='' # what was made to take a place and has not yet
placed=()  # paths whose former content is beside them, or that are new
# has_changed PATTERN
has_changed() {
    local path
    for path in ${changed[@]+"${changed[@]}"}; do
        # shellcheck disable=SC2053 # a pattern on purpose
        [[ $path != $1 ]] || return 0
    done
    return 1
}
beside() { printf '%s/.%s.%s' "$(dirname "$1")" "$(basename "$1")" "$2"; }

place() { # SOURCE PATH MODE
    local what=new
    if [ -e "$2" ]; then
        what=changed
        cmp -s "$1" "$2" && [ "$(stat -c %a "$2")" = "$3" ] && return 0
    fi
    changed+=("$2")
    if [ -n "$dry" ]; then say "would install $2 ($what)"; return 0; fi
    say "installing $2 ($what)"
    mkdir -p "$(dirname "$2")"
    pending=$(beside "$2" new)
    install -m "$3" "$1" "$pending"
    [ ! -e "$2" ] || ln -f "$2" "$(beside "$2" previous)"
    placed+=("$2")
    mv -fT "$pending" "$2"
    pending=''
}

do_step() { # WORDS... -- COMMAND...: says, and does unless this is a dry run
    local words=()
    while [ "$1" != -- ]; do words+=("$1"); shift; done
    shift
    changed+=("${words[*]}")
    if [ -n "$dry" ]; then say "would ${words[*]}"; else say "${words[*]}"; "$@"; fi
}

roll_back() {
    local path
    trap - EXIT
    [ -z "$pending" ] || rm -f "$pending"
    if [ ${#placed[@]} -gt 0 ] && [ -z "$earlier" ]; then
        printf 'install.sh: not finished. What is installed so far stays: correct what is said above and run this again, or --uninstall.\n' >&2
        for path in "${placed[@]}"; do rm -f "$(beside "$path" previous)"; done
    elif [ ${#placed[@]} -gt 0 ]; then
        printf 'install.sh: failed; putting back what was installed before\n' >&2
        for path in "${placed[@]}"; do
            if [ -e "$(beside "$path" previous)" ]; then mv -fT "$(beside "$path" previous)" "$path"; else rm -f "$path"; fi
        done
        if [ -n "$start" ] && booted; then
            systemctl daemon-reload || true
            if [ -e "$bin/smartnat-manager" ]; then systemctl try-restart smartnat.service || true; fi
            if [ -e "$bin/kube-proxy" ]; then systemctl try-restart kube-proxy.service || true; fi
        fi
    fi
    rm -rf "$work"
}

place_all() {
    local entry unit
    [ -z "$binary" ] || place "$binary" "$bin/smartnat-manager" 755
    [ -z "$proxy" ] || place "$proxy" "$bin/kube-proxy" 755
    for entry in "${common_files[@]}"; do place "$here/${entry%%:*}" "${entry#*:}" 644; done
    if [ -d /etc/NetworkManager/conf.d ]; then
        printf '# The ClusterIPs are on it: kube-proxy manages it.\n[keyfile]\nunmanaged-devices+=interface-name:kube-ipvs0\n' >"$work/nm"
        place "$work/nm" /etc/NetworkManager/conf.d/50-smartnat.conf 644
    fi
    place "$work/settings" "$settings" "$(mode_of "$settings")"
    # The path units would restart what is restarted below.
    [ -z "$new_kubeconfig" ] || place_quietly "$new_kubeconfig" "$kubeconfig" smartnat-kubeconfig.path
    [ -z "$new_proxy_kubeconfig" ] || place_quietly "$new_proxy_kubeconfig" "$proxy_kubeconfig" kube-proxy-kubeconfig.path
    [ ! -e "$work/proxy-settings" ] || place "$work/proxy-settings" "$proxy_settings" "$(mode_of "$proxy_settings")"
    for unit in "${wanted_units[@]}"; do place "$here/systemd/$unit" "$units/$unit" 644; done
}

# The administrator may have closed it; the units read it as root.
mode_of() { if [ -e "$1" ]; then stat -c %a "$1"; else echo 644; fi; }

place_quietly() { # SOURCE PATH UNIT
    [ -n "$dry" ] || cmp -s "$1" "$2" || ! active "$3" || systemctl stop "$3"
    place "$1" "$2" 600
}

# --- the running system
apply_all() {
    local unit time
    if has_changed "$units/*" && [ -n "$start" ]; then do_step reload systemd -- systemctl daemon-reload; fi
    time=$(clock)
    if [ -n "$time" ] && ! enabled "$time"; then do_step "enable $time, for the time" -- systemctl --quiet enable "$time"; fi
    for unit in "${wanted_units[@]}"; do
        grep -q '^\[Install\]' "$here/systemd/$unit" || continue
        enabled "$unit" || do_step "enable $unit" -- systemctl --quiet enable "$unit"
    done
    [ -n "$start" ] || return 0
    [ -z "$time" ] || active "$time" || unwilling "$time" || do_step "start $time" -- systemctl start "$time"
    if has_changed /etc/modules-load.d/smartnat.conf; then do_step load kernel modules -- load_modules; fi
    if has_changed /etc/sysctl.d/60-smartnat.conf; then do_step set kernel parameters -- set_sysctls; fi
    # Drop-ins of networkd.conf are read at its start only. It keeps addresses and links of its own files.
    if has_changed /etc/systemd/networkd.conf.d/50-smartnat.conf && active systemd-networkd; then
        do_step "restart systemd-networkd" -- systemctl restart systemd-networkd
    fi
    if has_changed /etc/NetworkManager/conf.d/50-smartnat.conf && active NetworkManager; then
        do_step reload NetworkManager -- systemctl reload NetworkManager
    fi
    active smartnat-border.service || do_step "start smartnat-border.service: the border is closed" -- bring_up smartnat-border.service
    run smartnat.service "$bin/smartnat-manager" "$settings" "$kubeconfig"
    if [ -n "$with_proxy" ]; then
        run kube-proxy.service "$bin/kube-proxy" "$proxy_kubeconfig" "$proxy_settings"
        if has_changed "*start kube-proxy.service" && [ -z "$dry" ]; then await_proxy; fi
    fi
    for unit in "${wanted_units[@]}"; do
        [[ $unit != *.path ]] || active "$unit" || do_step "start $unit" -- systemctl start "$unit"
    done
}

# Whether systemd was asked to start a unit and found that it has no place here, as a clock in a virtual machine that has its host's.
unwilling() {
    [ "$(systemctl show -p ConditionResult --value "$1")" = no ] && [ "$(systemctl show -p ConditionTimestampMonotonic --value "$1")" != 0 ]
}

load_modules() {
    local name
    while read -r name; do
        [[ -z $name || $name == \#* ]] || modprobe -q "$name" 2>/dev/null || [ -z "$with_proxy" ] || warn "module $name could not be loaded"
    done </etc/modules-load.d/smartnat.conf
}

set_sysctls() {
    local program
    for program in /usr/lib/systemd/systemd-sysctl /lib/systemd/systemd-sysctl; do
        if [ -x "$program" ]; then "$program" /etc/sysctl.d/60-smartnat.conf; return; fi
    done
    systemctl restart systemd-sysctl.service
}

run() { # UNIT PATH...: restarted where one of these changed or its unit file did
    local path unit=$1
    shift
    if ! active "$unit"; then
        do_step "start $unit" -- bring_up "$unit"
        return
    fi
    for path in "$units/$unit" "$@"; do
        if has_changed "$path"; then do_step "restart $unit" -- bring_up "$unit"; return; fi
    done
}

bring_up() {
    systemctl restart "$1" && return
    journalctl -u "$1" -n 20 --no-pager -o cat >&2 || true
    die "$1 did not start; above is what it said"
}

# Its own endpoint answers once it programs IPVS.
await_proxy() {
    local waited=0
    say "waiting for kube-proxy (half a minute where the cluster has no Node of this box's name)"
    until (exec 3<>/dev/tcp/127.0.0.1/10249) 2>/dev/null; do
        [ $((waited += 1)) -le 60 ] || { warn "kube-proxy serves nothing yet: journalctl -u kube-proxy"; return 0; }
        sleep 1
    done
}

# --- removal: first what opens, last what closes
remove_all() {
    local path unit
    if [ -e "$units/kube-proxy.service" ] && grep -q 'beside SmartNat' "$units/kube-proxy.service"; then
        do_step "${start:+stop and }disable kube-proxy" -- disable_units kube-proxy-kubeconfig.path kube-proxy.service
        [ ! -x "$bin/kube-proxy" ] || [ -z "$start" ] || do_step "remove from the kernel what kube-proxy programmed" -- forget_proxy
    fi
    if [ -e "$units/smartnat.service" ]; then
        do_step "${start:+stop and }disable smartnat" -- disable_units smartnat-kubeconfig.path smartnat.service smartnat-border.service
    fi
    [ ! -x "$bin/smartnat-manager" ] || [ -z "$start" ] || do_step "remove from the kernel what SmartNat programmed, the border last" -- clean_kernel
    for unit in "${smartnat_units[@]}"; do gone "$units/$unit"; done
    if [ ! -e "$units/kube-proxy.service" ] || grep -q 'beside SmartNat' "$units/kube-proxy.service"; then
        for unit in "${proxy_units[@]}"; do gone "$units/$unit"; done
        gone "$bin/kube-proxy"
    fi
    for path in "${common_files[@]}"; do gone "${path#*:}"; done
    gone /etc/NetworkManager/conf.d/50-smartnat.conf
    gone "$bin/smartnat-manager"
    [ ! -d /run/smartnat ] || do_step "remove /run/smartnat" -- rm -rf /run/private/smartnat /run/smartnat
    if [ -n "$purge" ]; then
        for path in "$settings" "$kubeconfig" "$proxy_settings" "$proxy_kubeconfig"; do gone "$path"; done
        [ -n "$dry" ] || rmdir --ignore-fail-on-non-empty /etc/smartnat 2>/dev/null || true
    fi
    [ ${#changed[@]} -gt 0 ] || { say "Nothing of SmartNat is installed here."; return; }
    [ -z "$start" ] || do_step reload systemd -- systemctl daemon-reload
    [ -n "$dry" ] || say "Removed. Kernel parameters of 60-smartnat.conf are back after a reboot; packages stay; so does the rest of deploy/ in the
cluster (docs/kubernetes.md). If this box is gone for good: smartnat-manager forget $(uname -n), from another."
    [ -n "$purge" ] || [ -n "$dry" ] || say "Settings and kubeconfigs stay (--purge removes them): $settings $kubeconfig $proxy_kubeconfig"
}

# Those that are there: an installation may have stopped half-way.
disable_units() {
    local unit
    for unit in "$@"; do
        [ ! -e "$units/$unit" ] || systemctl --quiet disable ${start:+--now} "$unit"
    done
}

gone() { [ ! -e "$1" ] || do_step "remove $1" -- rm -f "$1"; }

forget_proxy() {
    local tool table name
    # It leaves IPVS and its interface to nobody; of chains that refer to each other and of IPv6's sets it leaves some.
    "$bin/kube-proxy" --cleanup >/dev/null 2>&1 || true
    for tool in iptables ip6tables; do
        for table in nat filter mangle; do
            "$tool-save" -t "$table" | awk -v table="$table" '
                /^:KUBE-/ { chain = substr($1, 2); flush = flush "-F " chain "\n"; drop = drop "-X " chain "\n" }
                /^-A / && !/^-A KUBE-/ && / -j KUBE-/ { sub(/^-A/, "-D"); hooks = hooks $0 "\n" }
                END { if (hooks flush != "") printf "*%s\n%s%s%sCOMMIT\n", table, hooks, flush, drop }' |
                "$tool-restore" --noflush || warn "chains of kube-proxy are still in the table $table of $tool"
        done
    done
    for name in $(ipset list -n | grep '^KUBE-'); do ipset destroy "$name" || true; done
}

clean_kernel() {
    "$bin/smartnat-manager" cleanup ${force:+--force} && return
    printf '%s\n' "install.sh: what SmartNat programmed is still in the kernel, files were not removed, services are stopped. See above; then
run this again (--force: also where the cluster would be open)." >&2
    exit 1
}

# --- the way
check_system
work=$(mktemp -d /var/tmp/smartnat-install.XXXXXX)
trap 'rm -rf "$work"' EXIT
if [ -n "$uninstall" ]; then
    remove_all
    exit 0
fi

wanted_units=("${smartnat_units[@]}" ${with_proxy:+"${proxy_units[@]}"})
[ -n "$binary" ] || [ -x "$bin/smartnat-manager" ] || refuse "smartnat-manager is not installed yet: give it by --binary PATH or URL"
[ -z "$with_proxy" ] || [ -n "$proxy" ] || [ -x "$bin/kube-proxy" ] ||
    refuse "kube-proxy is not installed yet: give the cluster's version by --kube-proxy PATH or URL, or use --without-kube-proxy"
prepare_settings
check_kubeconfigs
check_host
for file in "${common_files[@]%%:*}" "${wanted_units[@]/#/systemd/}" smartnat.env; do
    [ -r "$here/$file" ] || refuse "$here/$file is missing: run this from the whole directory deploy/"
done
refuse_now

# Before anything is looked at only where it has to be fetched.
early=''
if { is_url "$binary" || is_url "$proxy"; } && ! command -v curl >/dev/null; then packages; early=yes; fi
# In a dry run nothing is fetched, and what is to be fetched is not looked at.
if is_url "$binary"; then
    if [ -n "$dry" ]; then say "would fetch $binary"; binary=''; else fetch --binary "$binary" "$binary_sum" "$work/smartnat-manager"; binary=$work/smartnat-manager; fi
fi
if is_url "$proxy"; then
    if [ -n "$dry" ]; then say "would fetch $proxy"; proxy=''; else fetch --kube-proxy "$proxy" "$proxy_sum" "$work/kube-proxy"; proxy=$work/kube-proxy; fi
fi
manager=$bin/smartnat-manager
if [ -n "$binary" ]; then
    check_program --binary "$binary" "$binary_sum" "smartnat-manager "
    manager=$binary
    [ -x "$manager" ] || { mkdir -p "$work/run" && install -m 755 "$binary" "$work/run/smartnat-manager" && manager=$work/run/smartnat-manager; }
fi
refuse_now
[ -x "$manager" ] || manager=''
check_settings "$manager"
version=''
if [ -n "$with_proxy" ]; then
    if [ -n "$proxy" ]; then
        check_program --kube-proxy "$proxy" "$proxy_sum" "Kubernetes v"
    elif [ -x "$bin/kube-proxy" ]; then
        check_program --kube-proxy "$bin/kube-proxy" "" "Kubernetes v"
    fi
    [ -z "$version" ] || [ ${#reasons[@]} -gt 0 ] || check_proxy_version "$manager" "$version"
fi
refuse_now

[ -n "$early" ] || packages
# Whether there is something to go back to.
earlier=$([ ! -e "$units/smartnat.service" ] || [ ! -x "$bin/smartnat-manager" ] || echo yes)
trap roll_back EXIT
place_all
apply_all
trap 'rm -rf "$work"' EXIT
for path in ${placed[@]+"${placed[@]}"}; do rm -f "$(beside "$path" previous)"; done

if [ -n "$dry" ]; then
    [ ${#changed[@]} -gt 0 ] || say "Nothing would be changed."
    exit 0
fi
[ ${#changed[@]} -gt 0 ] || say "Everything is as it should be; nothing was changed."
if [ -z "$start" ]; then
    say "Installed and enabled. At the first boot needed: $settings with the interfaces, $kubeconfig${with_proxy:+, $proxy_kubeconfig}."
    exit 0
fi
if booted && command -v timedatectl >/dev/null && [ "$(timedatectl show -p NTPSynchronized --value 2>/dev/null)" != yes ]; then
    warn "the clock is not synchronised yet ($(clock)): certificates and tokens are judged by it. See timedatectl"
fi
say "smartnat-manager check:"
"$bin/smartnat-manager" check || {
    say "Installed, and check found what is in the way (above)."
    exit 4
}
