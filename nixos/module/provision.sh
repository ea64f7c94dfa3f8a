# shellcheck shell=bash
# First boot: takes what this machine was given and puts it where the units look for it, root's alone.
#
#   smartnat-provision early       system credentials, else a config drive; before the border is closed
#   smartnat-provision user-data   EC2 user data; once the metadata service was asked
#
# The environment:
#   SMARTNAT_SOURCES      which of "credential", "config-drive" and "user-data" may be used
#   SMARTNAT_LABELS       file system labels of config drives
#   SMARTNAT_DRIVE_WAIT   seconds that a boot without credentials and without anything kept waits for devices to appear
#   SMARTNAT_ROOT         in the place of /, for tests
#   STATE_DIRECTORY       where things are kept (systemd makes it)
#   CREDENTIALS_DIRECTORY where systemd puts credentials, when there are some
#   RUNTIME_DIRECTORY     for the mount point of a config drive (systemd makes it)
#
# What can be given, by name; anything else is left alone:
#   smartnat.kubeconfig kube-proxy.kubeconfig smartnat.env hostname authorized_keys NAME.network
#
# What goes wrong with one thing is told, ends in exit code 1, and keeps nothing else from being taken.
set -euo pipefail
shopt -s nullglob

state=${STATE_DIRECTORY:?set by systemd: StateDirectory=}
root=${SMARTNAT_ROOT:-}
by_label=$root/dev/disk/by-label
networks=$root/run/systemd/network
user_data=$root/etc/ec2-metadata/user-data
ssh_directory=$root/root/.ssh
taken=0
failed=0
networks_given=()

say() { printf '%s\n' "$*"; }
complain() { printf '%s\n' "$*" >&2; }
fail() { complain "$@"; failed=1; }
may_use() { [[ " ${SMARTNAT_SOURCES:-} " == *" $1 "* ]]; }

known() {
    case $1 in
        smartnat.kubeconfig | kube-proxy.kubeconfig | smartnat.env | hostname | authorized_keys) return 0 ;;
        *.network) [[ $1 =~ ^[A-Za-z0-9][-A-Za-z0-9_.]{0,100}\.network$ ]] ;;
        *) return 1 ;;
    esac
}

# keep NAME SOURCE <content: by a name of its own in the same directory, so that no reader sees half of it, and not at all where nothing
# has changed, so that no unit is restarted for it.
keep() {
    local name=$1 source=$2 directory=$state new
    if [[ $name == authorized_keys ]]; then directory=$ssh_directory; fi
    if ! { install -d -m 0700 "$directory" && new=$(mktemp "$directory/.$name.XXXXXX") && cat >"$new"; }; then
        rm -f "${new:-}"
        fail "$name from $source could not be written to $directory, and what is there already stays. Is the disk full?"
        return
    fi
    if [[ ! -s $new ]]; then
        rm -f "$new"
        complain "$name from $source is empty, and not taken: what is there already stays. Give it content, or do not give it."
        return
    fi
    taken=$((taken + 1))
    if [[ $name == *.network ]]; then networks_given+=("$name"); fi
    if [[ -e $directory/$name ]] && cmp -s "$new" "$directory/$name"; then
        rm -f "$new"
        say "$name from $source: unchanged"
    else
        chmod 0600 "$new"
        mv -f "$new" "$directory/$name"
        say "$name from $source: taken, $directory/$name"
    fi
    # Before a kubeconfig that comes next lets the daemon start, which goes by this name.
    if [[ $name == hostname ]]; then put_hostname; fi
}

# Gives networkd the files that are kept. Whoever gave some gave them all: an address that is in none of them any more goes.
put_networks() {
    local file name
    if ((${#networks_given[@]} > 0)); then
        for file in "$state"/*.network; do
            name=${file##*/}
            if [[ " ${networks_given[*]} " != *" $name "* ]]; then
                rm -f "$file" "$networks/$name"
                say "$name was not given again: removed"
            fi
        done
    fi
    for file in "$state"/*.network; do
        name=${file##*/}
        if [[ -e $networks/$name ]] && cmp -s "$file" "$networks/$name"; then continue; fi
        # networkd is no root.
        install -D -m 0644 "$file" "$networks/$name"
    done
}

# The name that was given, else, where the system has none but its distribution's, one that no other machine has: instances that serve one
# cluster must differ in it.
put_hostname() {
    local name='' now
    if [[ -s $state/hostname ]]; then
        read -r name <"$state/hostname" || true
        if [[ ! $name =~ ^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$ || ${#name} -gt 64 ]]; then
            fail "hostname: \"$name\" is no host name, and not used. Write lower-case letters, digits and dashes, at most 64 characters."
            name=''
        fi
    fi
    read -r now <"$root/proc/sys/kernel/hostname"
    if [[ -z $name && ! -s $root/etc/hostname && $now =~ ^(nixos|localhost|"(none)")$ ]]; then
        name=border-$(head -c 8 "$root/etc/machine-id")
    fi
    if [[ -n $name ]]; then printf '%s\n' "$name" >"$root/proc/sys/kernel/hostname"; fi
}

take_files() {
    local directory=$1 source=$2 file
    for file in "$directory"/*; do
        if [[ -f $file ]] && known "${file##*/}"; then
            keep "${file##*/}" "$source" <"$file"
        fi
    done
}

# A JSON object: names as above, each with its text, or with an object for a kubeconfig (which is YAML, so JSON will do).
take_object() {
    local file=$1 source=$2 name
    if ! jq -e 'type == "object"' "$file" >/dev/null 2>&1; then
        fail "$source is no JSON object, and not taken. Write {\"smartnat.kubeconfig\": \"apiVersion: v1…\", \"kube-proxy.kubeconfig\": …}."
        return
    fi
    while IFS= read -r name; do
        if known "$name"; then
            keep "$name" "$source" < <(jq -j --arg name "$name" '.[$name] | if type == "string" then . else tojson end' "$file")
        else
            complain "$source: \"$name\" is unknown, and left alone. Known are smartnat.kubeconfig, kube-proxy.kubeconfig, smartnat.env, hostname, authorized_keys and NAME.network."
        fi
    done < <(jq -r 'keys[]' "$file")
}

kept() {
    local file
    for file in "$state"/*; do
        if [[ -s $file ]]; then return 0; fi
    done
    return 1
}

find_drive() {
    local label
    for label in ${SMARTNAT_LABELS:-}; do
        if [[ -e $by_label/$label ]]; then
            printf '%s\n' "$by_label/$label"
            return 0
        fi
    done
    return 1
}

config_drive() {
    local drive mount=${RUNTIME_DIRECTORY:?set by systemd: RuntimeDirectory=}/drive file
    # Devices may still be appearing. A boot that has what it needs does not wait for them.
    if ! kept; then
        udevadm settle --timeout="${SMARTNAT_DRIVE_WAIT:-5}" || say "devices are still appearing; a config drive among them may be missed"
    fi
    if ! drive=$(find_drive); then
        return
    fi
    mkdir -p "$mount"
    if ! mount -o ro,nosuid,nodev,noexec "$drive" "$mount"; then
        fail "the config drive $drive cannot be mounted, and is not used. Make it vfat, iso9660 or ext4."
        return
    fi
    take_files "$mount" "config drive $drive"
    # Where others put user data on such a drive: OpenStack, and cloud-init's NoCloud.
    for file in "$mount/openstack/latest/user_data" "$mount/user-data"; do
        if [[ -s $file && $(head -c1 "$file") == "{" ]]; then
            take_object "$file" "user data of config drive $drive"
        fi
    done
    umount "$mount"
}

case ${1:-} in
    early)
        # Before anything that may fail or hang: a drive that cannot be read takes no address away.
        put_networks
        if may_use credential && [[ -n ${CREDENTIALS_DIRECTORY:-} ]]; then
            take_files "$CREDENTIALS_DIRECTORY" "system credentials"
        fi
        if may_use config-drive && ((taken == 0)); then
            config_drive
        fi
        put_networks
        put_hostname
        ;;
    user-data)
        if may_use user-data && [[ -s $user_data ]]; then
            take_object "$user_data" "EC2 user data"
        fi
        if ((${#networks_given[@]} > 0)); then
            put_networks
            # It runs already.
            networkctl reload
        fi
        ;;
    *)
        complain "usage: smartnat-provision early|user-data"
        exit 2
        ;;
esac
if ((taken == 0)); then
    say "nothing was given ($1); what was kept before stays in force"
fi
exit "$failed"
