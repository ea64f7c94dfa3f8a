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
#   STATE_DIRECTORY       where things are kept (systemd makes it)
#   CREDENTIALS_DIRECTORY where systemd puts credentials, when there are some
#   RUNTIME_DIRECTORY     for the mount point of a config drive (systemd makes it)
#
# What can be given, by name; anything else is left alone:
#   smartnat.kubeconfig kube-proxy.kubeconfig smartnat.env authorized_keys NAME.network
set -euo pipefail
shopt -s nullglob

state=${STATE_DIRECTORY:?set by systemd: StateDirectory=}
labels=/dev/disk/by-label
networks=${SMARTNAT_NETWORKS:-/run/systemd/network}
user_data=${SMARTNAT_USER_DATA:-/etc/ec2-metadata/user-data}
ssh_directory=${SMARTNAT_SSH_DIRECTORY:-/root/.ssh}
by_label=${SMARTNAT_BY_LABEL:-$labels}
taken=0
networks_given=()

say() { printf '%s\n' "$*"; }
complain() { printf '%s\n' "$*" >&2; }
may_use() { [[ " ${SMARTNAT_SOURCES:-} " == *" $1 "* ]]; }

known() {
    case $1 in
        smartnat.kubeconfig | kube-proxy.kubeconfig | smartnat.env | authorized_keys) return 0 ;;
        *.network) [[ $1 =~ ^[A-Za-z0-9][-A-Za-z0-9_.]{0,100}\.network$ ]] ;;
        *) return 1 ;;
    esac
}

# keep NAME SOURCE <content: by a name of its own in the same directory, so that no reader sees half of it, and not at all where nothing
# has changed, so that no unit is restarted for it.
keep() {
    local name=$1 source=$2 directory=$state new
    if [[ $name == authorized_keys ]]; then
        directory=$ssh_directory
        mkdir -p -m 0700 "$directory"
    fi
    new=$(mktemp "$directory/.$name.XXXXXX")
    cat >"$new"
    if [[ ! -s $new ]]; then
        rm -f "$new"
        complain "$name from $source is empty, and not taken: what is there already stays. Give it content, or do not give it."
        return 0
    fi
    taken=$((taken + 1))
    if [[ $name == *.network ]]; then networks_given+=("$name"); fi
    if [[ -e $directory/$name ]] && cmp -s "$new" "$directory/$name"; then
        rm -f "$new"
        say "$name from $source: unchanged"
        return 0
    fi
    chmod 0600 "$new"
    mv -f "$new" "$directory/$name"
    say "$name from $source: taken, $directory/$name"
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
        complain "$source is no JSON object, and not taken. Write {\"smartnat.kubeconfig\": \"apiVersion: v1…\", \"kube-proxy.kubeconfig\": …}."
        return 1
    fi
    while IFS= read -r name; do
        if known "$name"; then
            keep "$name" "$source" < <(jq -j --arg name "$name" '.[$name] | if type == "string" then . else tojson end' "$file")
        else
            complain "$source: \"$name\" is unknown, and left alone. Known are smartnat.kubeconfig, kube-proxy.kubeconfig, smartnat.env, authorized_keys and NAME.network."
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
        return 0
    fi
    mkdir -p "$mount"
    if ! mount -o ro,nosuid,nodev,noexec "$drive" "$mount"; then
        complain "the config drive $drive cannot be mounted, and is not used. Make it vfat, iso9660 or ext4."
        return 1
    fi
    trap 'umount "$mount"' RETURN
    take_files "$mount" "config drive $drive"
    # Where others put user data on such a drive: OpenStack, and cloud-init's NoCloud.
    for file in "$mount/openstack/latest/user_data" "$mount/user-data"; do
        if [[ -s $file && $(head -c1 "$file") == "{" ]]; then
            take_object "$file" "user data of config drive $drive"
        fi
    done
}

case ${1:-} in
    early)
        # Before anything that may fail: a drive that cannot be read takes no address away.
        put_networks
        if may_use credential && [[ -n ${CREDENTIALS_DIRECTORY:-} ]]; then
            take_files "$CREDENTIALS_DIRECTORY" "system credentials"
        fi
        if may_use config-drive && ((taken == 0)); then
            config_drive
        fi
        put_networks
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
