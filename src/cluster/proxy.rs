//! Whether the API server is asked through a proxy: what the kubeconfig says, else the environment's variables.

use std::net::IpAddr;

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::client::proxy::matcher::Matcher;

/// How the API server is reached, and why so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// With user and password, if it has them.
    pub proxy: Option<Uri>,
    pub because: String,
}

impl std::fmt::Display for Way {
    /// For people, without what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.proxy.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?))) {
            Some((scheme, authority)) => {
                let (_, host) = authority.as_str().rsplit_once('@').unwrap_or(("", authority.as_str()));
                write!(f, "through the proxy {scheme}://{host} ({})", self.because)
            }
            None => write!(f, "without a proxy ({})", self.because),
        }
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProxyError {
    #[error("{0} holds no URL of a proxy; write http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT")]
    Url(String),
    #[error("the proxy in {0} is of a kind that is not spoken; use one by http, https or socks5")]
    Scheme(String),
    #[error(
        "the proxy in {0} wants SOCKS with user and password, which is not spoken; use one without, or one by http or https"
    )]
    SocksUser(String),
}

const IN_KUBECONFIG: &str = "proxy-url in the kubeconfig";

/// `proxy_url` is what the kubeconfig's cluster says; it holds whatever the environment says, as with kubectl. Of two variables that
/// differ in case only, the one in capitals counts; empty ones count as missing.
pub fn choose(
    server: &Uri,
    proxy_url: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Way, ProxyError> {
    let direct = |because: String| Ok(Way { proxy: None, because });
    if let Some(url) = proxy_url.map(str::trim).filter(|url| !url.is_empty()) {
        let proxy = proxy(&Matcher::builder().all(url).build(), url, IN_KUBECONFIG)?;
        return Ok(Way { proxy: Some(proxy), because: IN_KUBECONFIG.to_owned() });
    }
    let first = |names: &[&'static str]| {
        let values = names.iter().filter_map(|name| Some((*name, variable(name)?.trim().to_owned())));
        values.into_iter().find(|(_, value)| !value.is_empty())
    };
    let names: &[&str] = match server.scheme_str() {
        Some("http") => &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
        _ => &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
    };
    let Some((name, url)) = first(names) else {
        return direct(format!("neither the kubeconfig nor {} names one", names.join(", ")));
    };
    let host = server.host().unwrap_or_default().trim_end_matches('.');
    if is_loopback(host) {
        return direct(format!("{name} is set, but {host} is this host itself"));
    }
    if let Some((no_name, list)) = first(&["NO_PROXY", "no_proxy"])
        && excepted(host, port(server), &list)
    {
        return direct(format!("{name} is set, but {no_name} excepts {host}"));
    }
    let proxy = proxy(&Matcher::builder().all(&url).build(), &url, name)?;
    Ok(Way { proxy: Some(proxy), because: name.to_owned() })
}

/// The library checks and completes the URL; user and password stay in it, where the client looks for them.
fn proxy(matcher: &Matcher, url: &str, name: &str) -> Result<Uri, ProxyError> {
    let bad = || ProxyError::Url(name.to_owned());
    let found = matcher.intercept(&Uri::from_static("https://any")).ok_or_else(bad)?;
    let scheme = match found.uri().scheme_str() {
        Some(scheme @ ("http" | "https")) => scheme,
        // This one leaves names to the proxy in any case.
        Some("socks5" | "socks5h") => "socks5",
        _ => return Err(ProxyError::Scheme(name.to_owned())),
    };
    let given = url.parse::<Uri>().ok().and_then(|uri| uri.authority().cloned()).ok_or_else(bad)?;
    let mut authority = given.as_str().to_owned();
    if scheme == "socks5" {
        if authority.contains('@') {
            return Err(ProxyError::SocksUser(name.to_owned()));
        }
        if given.port().is_none() {
            authority += ":1080";
        }
    }
    let built = Uri::builder().scheme(scheme).authority(authority).path_and_query(PathAndQuery::from_static("/"));
    built.build().map_err(|_| bad())
}

/// As the list is read by what else runs on a box: names with their subdomains (`x`, `.x`, `*.x`), addresses, networks, each also with
/// a port, and `*` for all.
fn excepted(host: &str, port: u16, list: &str) -> bool {
    let items: Vec<&str> = list.split([',', ' ', '\t', '\n']).filter(|item| !item.is_empty()).collect();
    if items.contains(&"*") {
        return true;
    }
    let items: Vec<&str> = items.into_iter().filter_map(|item| without_port(item, port)).collect();
    // Whether a proxy intercepts what is not excepted: any will do.
    let matcher = Matcher::builder().all("http://proxy").no(items.join(",")).build();
    format!("https://{host}").parse::<Uri>().is_ok_and(|uri| matcher.intercept(&uri).is_none())
}

/// What remains of an item without its port; `None` when it is about another port.
fn without_port(item: &str, port: u16) -> Option<&str> {
    if item.parse::<IpAddr>().is_ok() {
        return Some(item);
    }
    let (name, of) = match item.rsplit_once(':') {
        Some((name, of)) if of.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) => {
            (name, Some(of))
        }
        _ => (item, None),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name).trim_end_matches('.');
    of.is_none_or(|of| of.parse() == Ok(port)).then_some(name)
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn port(server: &Uri) -> u16 {
    server.port_u16().unwrap_or(if server.scheme_str() == Some("http") { 80 } else { 443 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(server: &str, proxy_url: Option<&str>, variables: &[(&str, &str)]) -> Result<Way, ProxyError> {
        let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        choose(&server.parse().unwrap(), proxy_url, value)
    }

    fn proxy_of(server: &str, variables: &[(&str, &str)]) -> Option<String> {
        way(server, None, variables).unwrap().proxy.map(|uri| uri.to_string())
    }

    const API: &str = "https://10.1.2.3:6443";
    const PROXY: &str = "http://proxy:3128/";

    #[test]
    fn the_variables_in_their_order_and_both_cases() {
        for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            assert_eq!(proxy_of(API, &[(name, "http://proxy:3128")]).as_deref(), Some(PROXY), "{name}");
            assert_eq!(way(API, None, &[(name, "http://proxy:3128")]).unwrap().because, name);
        }
        assert_eq!(proxy_of(API, &[("HTTP_PROXY", "http://proxy:3128")]), None, "for another scheme");
        assert_eq!(proxy_of("http://10.1.2.3", &[("http_proxy", "proxy:3128")]).as_deref(), Some(PROXY));
        let both = [("HTTPS_PROXY", ""), ("https_proxy", "http://proxy:3128"), ("ALL_PROXY", "http://other:1")];
        assert_eq!(proxy_of(API, &both).as_deref(), Some(PROXY), "an empty one counts as missing");
        assert_eq!(proxy_of(API, &[]), None);
    }

    #[test]
    fn what_is_excepted_is_asked_directly() {
        let name = "https://api.lab.example.com:6443";
        for (server, list) in [
            (API, "10.1.2.3"),
            (API, "192.0.2.1, 10.0.0.0/8"),
            (API, "localhost,10.0.0.0/8,"),
            (API, "localhost 10.0.0.0/8"),
            (API, "10.1.2.3:6443"),
            (API, "*"),
            (API, "x,*"),
            ("https://[2001:db8::5]:6443", "2001:db8::/32"),
            ("https://[2001:db8::5]:6443", "[2001:db8::5]:6443"),
            (name, "example.com"),
            (name, ".example.com"),
            (name, "*.example.com"),
            (name, "API.Lab.Example.COM:6443"),
            (name, "example.com."),
            ("https://api.example.com.:6443", "example.com"),
            ("https://api.example.com", "example.com:443"),
        ] {
            for variable in ["NO_PROXY", "no_proxy"] {
                let variables = [("HTTPS_PROXY", "http://proxy:3128"), (variable, list), ("NO_PROXY", "")];
                let way = way(server, None, &variables).unwrap();
                assert_eq!(way.proxy, None, "{server} {list}");
                assert!(way.because.contains(variable), "{way:?}");
            }
        }
        for (server, list) in [
            (API, "10.1.2.4,10.2.0.0/16,example.com"),
            (API, "10.1.2.3:443"),
            (API, "proxy"),
            (name, "ample.com"),
            (name, "lab.example.com:443"),
            (name, "api"),
            (name, ""),
        ] {
            let variables = [("https_proxy", "http://proxy:3128"), ("no_proxy", list)];
            assert_eq!(proxy_of(server, &variables).as_deref(), Some(PROXY), "{server} {list}");
        }
    }

    #[test]
    fn this_host_itself_is_never_asked_through_a_proxy() {
        for server in ["https://localhost:6443", "https://127.0.0.1:6443", "https://[::1]:6443"] {
            assert_eq!(proxy_of(server, &[("HTTPS_PROXY", "http://proxy:3128")]), None, "{server}");
        }
    }

    #[test]
    fn the_kubeconfig_has_the_last_word() {
        let variables = [("HTTPS_PROXY", "http://other:1"), ("NO_PROXY", "*")];
        let way = way(API, Some("https://user:pa%40ss@proxy"), &variables).unwrap();
        assert_eq!(way.proxy.as_ref().unwrap().to_string(), "https://user:pa%40ss@proxy/");
        assert_eq!(way.to_string(), "through the proxy https://proxy (proxy-url in the kubeconfig)");
    }

    #[test]
    fn what_is_no_proxy_is_named_and_its_password_is_not() {
        let of = |url: &str| way(API, None, &[("HTTPS_PROXY", url)]);
        assert_eq!(of("ftp://user:secret@proxy").unwrap_err(), ProxyError::Url("HTTPS_PROXY".to_owned()));
        assert_eq!(of("http://").unwrap_err(), ProxyError::Url("HTTPS_PROXY".to_owned()));
        assert_eq!(of("socks4://proxy").unwrap_err(), ProxyError::Scheme("HTTPS_PROXY".to_owned()));
        assert_eq!(of("socks5://u:p@proxy").unwrap_err(), ProxyError::SocksUser("HTTPS_PROXY".to_owned()));
        // Nobody asks through what is excepted, so it may be meant for other programs.
        for other in [("NO_PROXY", "*"), ("no_proxy", "10.0.0.0/8")] {
            assert_eq!(proxy_of(API, &[("ALL_PROXY", "socks4://proxy"), other]), None);
        }
        assert_eq!(of("socks5h://proxy").unwrap().proxy.unwrap().to_string(), "socks5://proxy:1080/");
        let shown = of("http://user:secret@proxy:3128").unwrap();
        assert_eq!(shown.proxy.as_ref().unwrap().to_string(), "http://user:secret@proxy:3128/");
        assert_eq!(shown.to_string(), "through the proxy http://proxy:3128 (HTTPS_PROXY)");
    }
}
