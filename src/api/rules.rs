//! CEL rules of the CustomResourceDefinition: what one object by itself shows to be wrong is refused when it is written, with the words of
//! [`crate::plan::validate()`], which stays the judge of what was stored before and of files.
//!
//! Only functions that Kubernetes 1.30 knows: an API server compiles new rules in the environment of the release before its own, and 1.31 is
//! the oldest that is supported. `message` stands in where a `messageExpression` cannot be evaluated.

use serde_json::{Value, json};

/// Key of the list of rules in a schema.
pub(super) const KEY: &str = "x-kubernetes-validations";

fn rule(rule: &str, message: &str, expression: &str) -> Value {
    json!({ "rule": rule, "message": message, "messageExpression": expression })
}

/// Of one of `spec.addresses`.
pub(super) fn address() -> Value {
    json!([
        rule(
            "isIP(self)",
            "no IP address; write four decimal numbers without leading zeros (203.0.113.10)",
            r#"'"' + self + '" ' + (isCIDR(self) ? 'is a network; write single addresses, without a prefix length' : 'is no IP address; write four decimal numbers without leading zeros (203.0.113.10)')"#,
        ),
        rule(
            "!isIP(self) || ip(self).family() == 4",
            "an IPv6 address, which is not served yet; use IPv4 addresses",
            "self + ' is an IPv6 address, which is not served yet; use IPv4 addresses'",
        ),
        // Global unicast is here all but the unspecified, loopback, multicast, broadcast and link-local addresses.
        rule(
            "!isIP(self) || ip(self).family() != 4 || ip(self).isGlobalUnicast() || ip(self).isLinkLocalUnicast()",
            "no address that clients can reach; name an address of an external interface",
            "self + ' is ' + (ip(self).isUnspecified() ? 'the unspecified address' : ip(self).isLoopback() ? 'a loopback address' : self == '255.255.255.255' ? 'the broadcast address' : 'a multicast address') + '; name an address of an external interface'",
        ),
    ])
}

/// Of one of `spec.allowedSources`.
pub(super) fn source() -> Value {
    json!([
        rule(
            "isCIDR(self) || isIP(self)",
            "neither a network nor an address; write 192.0.2.0/24 or 192.0.2.1",
            r#"'"' + self + '" is neither a network nor an address; write 192.0.2.0/24 or 192.0.2.1'"#,
        ),
        rule(
            "isCIDR(self) ? cidr(self).ip().family() == 4 : !isIP(self) || ip(self).family() == 4",
            "IPv6, which is not served yet; use IPv4 networks or addresses",
            "self + ' is IPv6, which is not served yet; use IPv4 networks or addresses'",
        ),
    ])
}

/// Of `spec.mode`.
pub(super) fn mode() -> Value {
    json!([rule(
        "self.lowerAscii() in ['service', 'direct']",
        "no mode; use service or direct",
        r#"'"' + self + '" is no mode; use service or direct'"#,
    )])
}

/// Of the `protocol` of one of `spec.ports`.
pub(super) fn protocol() -> Value {
    json!([rule(
        "self.lowerAscii() in ['tcp', 'udp']",
        "a protocol that is not served; use tcp or udp",
        r#"'"' + self + '" is not served; use tcp or udp'"#,
    )])
}

/// Of one of `spec.ports`.
pub(super) fn port() -> Value {
    let message = "port is missing: write the port that clients connect to, 1 to 65535";
    json!([{ "rule": "has(self.port)", "message": message }])
}

/// Of `spec.ports` as a whole. Compares every port with every other one, so that the API server, which estimates the cost of a rule before it
/// takes it, bounds their number. It does not know the length of a computed list or text: `join` and `+` on one would be too costly.
pub(super) fn ports() -> Value {
    let protocol = |port: &str| format!("(has({port}.protocol) ? {port}.protocol.lowerAscii() : 'tcp')");
    let (p, q) = (protocol("p"), protocol("q"));
    let once = format!("self.exists_one(q, has(q.port) && q.port == p.port && {q} == {p})");
    json!([rule(
        &format!("self.all(p, !has(p.port) || {once})"),
        "a port and protocol stand there more than once; remove all but one of each",
        &format!(
            "'%s: the same port and protocol more than once; remove all but one of each'\
             .format([self.map(p, has(p.port) && !{once}, '%d/%s'.format([p.port, {p}]))])"
        ),
    )])
}
