#!/usr/bin/env bash
# Makes the two kubeconfigs of a border box outside the cluster. Run where kubectl is an administrator of the cluster; --help tells more.
set -euo pipefail
umask 077

kubectl=${KUBECTL:-kubectl}
namespace=smartnat-system
account=smartnat-manager
daemon_user=system:serviceaccount:$namespace:$account
proxy_user=system:kube-proxy

help() {
    cat <<END
Usage: deploy/kubeconfig.sh [OPTIONS] DIRECTORY

Writes into DIRECTORY, each replaced in one step and readable by its owner alone:
  smartnat.kubeconfig     for smartnat-manager: a token of ServiceAccount $namespace/$account
  kube-proxy.kubeconfig   for kube-proxy: a client certificate of user $proxy_user

The cluster is that of kubectl's current context, which must be an administrator's. Run it again to renew both.

Options:
  --days N                how long both shall live (default 365); what the API server granted is told
  --server URL            the API server as the border box reaches it (default: that of the context)
  --context NAME          another context than the current one
  --certificate           a client certificate instead of the token, for API servers that grant short tokens only.
                          It counts until it expires, also when the ServiceAccount is gone
  --ca CERT KEY           sign certificates with this CA of the API server (--client-ca-file), PEM files.
                          Default: by the cluster, as CertificateSigningRequests that this script approves
  --without-kube-proxy    only the daemon's: every Mapping is in mode direct
  --no-verify             do not try them: the API server cannot be reached under --server from here
  -h, --help              this text

Environment: KUBECONFIG as for kubectl, KUBECTL the program (default kubectl).
END
}

die() { printf 'kubeconfig.sh: %s\n' "$*" >&2; exit 1; }
usage() { printf 'kubeconfig.sh: %s\nTry deploy/kubeconfig.sh --help.\n' "$*" >&2; exit 2; }

days=365 server='' context=() certificate='' ca_cert='' ca_key='' with_proxy=yes verify=yes directory=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) help; exit 0 ;;
        --days | --server | --context) [ $# -ge 2 ] || usage "$1 needs a value" ;;
        --ca) [ $# -ge 3 ] || usage "--ca needs two files: the CA's certificate and its key" ;;
    esac
    case $1 in
        --days) days=$2; shift 2 ;;
        --server) server=$2; shift 2 ;;
        --context) context=(--context "$2"); shift 2 ;;
        --ca) ca_cert=$2 ca_key=$3; shift 3 ;;
        --certificate) certificate=yes; shift ;;
        --without-kube-proxy) with_proxy=''; shift ;;
        --no-verify) verify=''; shift ;;
        -*) usage "unknown option $1" ;;
        *) [ -z "$directory" ] || usage "one DIRECTORY, not two: $directory and $1"; directory=$1; shift ;;
    esac
done
[ -n "$directory" ] || usage "a DIRECTORY to write to is needed"
[[ $days =~ ^[1-9][0-9]{0,3}$ ]] || usage "--days $days: a whole number from 1 to 9999"
[[ -z $server || $server =~ ^https://[^/]+ ]] || usage "--server $server: an address such as https://10.0.0.10:6443"
for file in ${ca_cert:+"$ca_cert" "$ca_key"}; do
    [ -r "$file" ] || die "$file cannot be read"
done
for command in "$kubectl" openssl base64 date; do
    command -v "$command" >/dev/null || die "$command is not here; install it, then run this again"
done
[ -d "$directory" ] || mkdir -p "$directory" || die "$directory cannot be made"

work=$(mktemp -d)
trap 'rm -rf "$work" "$directory"/.*.kubeconfig.$$' EXIT

admin() { "$kubectl" ${context[@]+"${context[@]}"} "$@"; }
# view FIELD: of the context's cluster, with files embedded.
view() { admin config view --raw --minify --flatten -o "jsonpath={.clusters[0].cluster.$1}"; }
# in_words SECONDS: a moment, and how far away it is.
in_words() {
    printf '%s (in %d days)' "$(date -u -d "@$1" '+%Y-%m-%d %H:%M UTC')" $((($1 - $(date +%s)) / 86400))
}

# --- the cluster
admin config view --raw --minify --flatten >/dev/null || die "kubectl has no such context: set KUBECONFIG or --context"
[ -n "$server" ] || server=$(view server)
[ -n "$server" ] || die "kubectl's context names no API server: set KUBECONFIG or --context"
[ "$(view insecure-skip-tls-verify)" != true ] ||
    die "this context does not verify the API server's certificate (insecure-skip-tls-verify); a border must: use one with the CA"
authority=$(view certificate-authority-data)
server_name=$(view tls-server-name)
admin get serviceaccount -n "$namespace" "$account" -o name >/dev/null ||
    die "ServiceAccount $namespace/$account cannot be read. Install it first: kubectl apply -k deploy/"

# write NAME USER-LINES: DIRECTORY/NAME.kubeconfig.
write() {
    local new="$directory/.$1.kubeconfig.$$"
    {
        printf 'apiVersion: v1\nkind: Config\ncurrent-context: %s\n' "$1"
        printf 'clusters:\n- name: cluster\n  cluster:\n    server: "%s"\n' "$server"
        # Without one the API server's certificate is of a CA that every system knows.
        [ -z "$authority" ] || printf '    certificate-authority-data: %s\n' "$authority"
        [ -z "$server_name" ] || printf '    tls-server-name: "%s"\n' "$server_name"
        printf 'users:\n- name: %s\n  user:\n%s\n' "$1" "$2"
        printf 'contexts:\n- name: %s\n  context:\n    cluster: cluster\n    user: %s\n' "$1" "$1"
    } >"$new"
    verify "$new" "$3" "$4"
    mv -f "$new" "$directory/$1.kubeconfig"
    printf '%s\n  user %s at %s\n  expires %s\n' "$directory/$1.kubeconfig" "$3" "$server" "$5"
}

# verify FILE USER RESOURCE: the API server takes it for that user, who may list the resource.
verify() {
    [ -n "$verify" ] || return 0
    local who answer
    who=$("$kubectl" --kubeconfig "$1" --request-timeout=20s auth whoami -o 'jsonpath={.status.userInfo.username}') ||
        die "the API server at $server does not accept the new credential of $2 (see above). If it cannot be reached from here under
that name, use --no-verify. If a CA was given: is it the one in --client-ca-file of the API server?"
    [ "$who" = "$2" ] || die "the API server takes the new credential for $who instead of $2"
    answer=$("$kubectl" --kubeconfig "$1" auth can-i list "$3" --all-namespaces 2>&1) ||
        die "$2 may not list $3 ($answer). For $daemon_user: kubectl apply -k deploy/. For $proxy_user:
ClusterRoleBinding system:node-proxier, a default of Kubernetes, is missing or changed"
}

# sign NAME USER: makes $work/NAME.key and $work/NAME.crt.
sign() {
    local request waited=0
    request=smartnat-$1-$(date +%s)-$$
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" \
        -keyout "$work/$1.key" -out "$work/$1.csr" 2>"$work/said" || die "openssl made no key: $(cat "$work/said")"
    if [ -n "$ca_cert" ]; then
        printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\n' >"$work/ext"
        openssl x509 -req -in "$work/$1.csr" -CA "$ca_cert" -CAkey "$ca_key" -set_serial "0x$(openssl rand -hex 16)" \
            -days "$days" -extfile "$work/ext" -out "$work/$1.crt" 2>"$work/said" ||
            die "openssl could not sign with $ca_cert: $(cat "$work/said")"
        return
    fi
    admin create -f - >/dev/null <<END || die "no CertificateSigningRequest could be made (see above); with the CA at hand, use --ca"
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata:
  name: $request
spec:
  signerName: kubernetes.io/kube-apiserver-client
  expirationSeconds: $((days * 86400))
  usages: [client auth, digital signature]
  request: $(base64 -w 0 <"$work/$1.csr")
END
    admin certificate approve "$request" >/dev/null ||
        die "CertificateSigningRequest $request could not be approved (see above); with the CA at hand, use --ca"
    until admin get certificatesigningrequest "$request" -o 'jsonpath={.status.certificate}' >"$work/issued" && [ -s "$work/issued" ]; do
        [ $((waited += 1)) -le 60 ] ||
            die "CertificateSigningRequest $request was approved and not signed within 60 s. kube-controller-manager signs them where it has
--cluster-signing-cert-file and -key-file; managed clusters may sign none for kubernetes.io/kube-apiserver-client. With the CA at hand, use --ca"
        sleep 1
    done
    base64 -d <"$work/issued" >"$work/$1.crt"
    admin delete certificatesigningrequest "$request" >/dev/null
}

# by_certificate NAME USER RESOURCE
by_certificate() {
    local expires user
    sign "$1" "$2"
    expires=$(date -d "$(openssl x509 -in "$work/$1.crt" -noout -enddate | cut -d= -f2)" +%s)
    user=$(printf '    client-certificate-data: %s\n    client-key-data: %s' \
        "$(base64 -w 0 <"$work/$1.crt")" "$(base64 -w 0 <"$work/$1.key")")
    write "$1" "$user" "$2" "$3" "$(in_words "$expires")"
}

# by_token NAME USER RESOURCE
by_token() {
    local token payload expires
    token=$(admin create token -n "$namespace" "$account" --duration "$((days * 24))h") || die "no token was issued (see above)"
    payload=$(cut -d. -f2 <<<"$token" | tr -- '-_' '+/')
    # base64 wants what JWTs leave out.
    while [ $((${#payload} % 4)) -ne 0 ]; do payload+='='; done
    expires=$(base64 -d <<<"$payload" | grep -o '"exp":[0-9]*' | cut -d: -f2)
    write "$1" "    token: $token" "$2" "$3" "$(in_words "$expires")"
    # An API server with --service-account-max-token-expiration, and those of most clouds, grant less than was asked for.
    [ $((expires - $(date +%s))) -gt $((days * 86400 - 3600)) ] ||
        printf '  the API server granted less than the %d days asked for: renew in time, or use --certificate\n' "$days"
}

if [ -n "$certificate" ]; then
    by_certificate smartnat "$daemon_user" mappings.smartnat.aureacentral.com
else
    by_token smartnat "$daemon_user" mappings.smartnat.aureacentral.com
fi
[ -z "$with_proxy" ] || by_certificate kube-proxy "$proxy_user" endpointslices.discovery.k8s.io
