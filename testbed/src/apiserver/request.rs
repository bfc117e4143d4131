//! Requests, read: what the path means, what the query asks, what the client accepts.

use http::{HeaderMap, Method, header};

use super::{error::ApiError, table::Include};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// Objects.
    Objects(Target),
    /// `/api`, `/apis`, `/api/v1`, `/apis/GROUP`, `/apis/GROUP/VERSION`, without the slashes around.
    Discovery(Vec<String>),
    /// `/openapi/...`: what follows it.
    OpenApi(Vec<String>),
    /// `/version`.
    Version,
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    /// `/testbed/calls`: what service accounts have asked.
    Calls,
}

/// The path of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Empty for the core group.
    pub group: String,
    /// As `v1`.
    pub version: String,
    /// As `pods`.
    pub plural: String,
    /// Where one is named.
    pub namespace: Option<String>,
    /// Where one object is meant.
    pub name: Option<String>,
    /// As `status`.
    pub subresource: Option<String>,
}

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// 404 for what has no meaning here.
    pub fn parse(path: &str) -> Result<Self, ApiError> {
        let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let owned = |parts: &[&str]| parts.iter().map(|&part| part.to_owned()).collect();
        match parts.as_slice() {
            ["version"] => Ok(Self::Version),
            ["healthz" | "livez" | "readyz", ..] => Ok(Self::Health),
            ["testbed", "calls"] => Ok(Self::Calls),
            ["openapi", rest @ ..] => Ok(Self::OpenApi(owned(rest))),
            ["api"] | ["api", _] | ["apis"] | ["apis", _] | ["apis", _, _] => {
                Ok(Self::Discovery(owned(&parts)))
            }
            ["api", version, rest @ ..] => Target::parse("", version, rest).map(Self::Objects),
            ["apis", group, version, rest @ ..] => Target::parse(group, version, rest).map(Self::Objects),
            _ => Err(ApiError::unknown_path()),
        }
    }
}

impl Target {
    /// Whether a service account's token is asked for.
    pub fn is_token_request(&self, method: &Method) -> bool {
        *method == Method::POST
            && (self.group.as_str(), self.plural.as_str()) == ("", "serviceaccounts")
            && self.name.is_some()
            && self.subresource.as_deref() == Some("token")
    }

    fn parse(group: &str, version: &str, rest: &[&str]) -> Result<Self, ApiError> {
        let mut target = Self { group: group.to_owned(), version: version.to_owned(), ..Self::default() };
        // `namespaces/NAME/status` is a namespace's own, `namespaces/NAME/pods` are pods in it.
        let rest = match rest {
            ["namespaces", _, "status" | "finalize"] => rest,
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => {
                target.namespace = Some((*namespace).to_owned());
                rest
            }
            _ => rest,
        };
        let mut rest = rest.iter().map(|&part| part.to_owned());
        target.plural = rest.next().ok_or_else(ApiError::unknown_path)?;
        target.name = rest.next();
        target.subresource = rest.next();
        match rest.next() {
            None => Ok(target),
            Some(_) => Err(ApiError::unknown_path()),
        }
    }
}

/// What is done, in the words of RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// One object is read.
    Get,
    /// All of a kind are read.
    List,
    /// All of a kind are followed.
    Watch,
    /// An object is made.
    Create,
    /// An object is replaced.
    Update,
    /// An object is changed in part.
    Patch,
    /// A server-side apply.
    Apply,
    /// An object is deleted.
    Delete,
    /// All that match are deleted.
    DeleteCollection,
}

impl Verb {
    /// What this method means there.
    ///
    /// # Errors
    /// 405 where it means nothing.
    pub fn of(
        method: &Method,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Self, ApiError> {
        let named = target.name.is_some();
        match (method.as_str(), named) {
            ("GET", true) => Ok(Self::Get),
            ("GET", false) if query.flag("watch") => Ok(Self::Watch),
            ("GET", false) => Ok(Self::List),
            ("POST", false) => Ok(Self::Create),
            ("PUT", true) => Ok(Self::Update),
            ("PATCH", true) if content_type(headers).starts_with("application/apply-patch") => {
                Ok(Self::Apply)
            }
            ("PATCH", true) => Ok(Self::Patch),
            ("DELETE", true) => Ok(Self::Delete),
            ("DELETE", false) => Ok(Self::DeleteCollection),
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    /// Whether it changes objects.
    pub fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// The media type of the body, without its parameters.
pub fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// The query's parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        };
        Self(pairs.map(pair).collect())
    }

    /// A parameter that is there and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Whether a parameter is set to yes; as in Go, naming it is enough.
    pub fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|(other, value)| other == name && value != "false" && value != "0")
    }

    /// A parameter that is a number.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let parse = |text: &str| {
            let refuse = |_| ApiError::bad_request(format!("{name}: {text:?} is not a number"));
            text.parse().map_err(refuse)
        };
        self.get(name).map(parse).transpose()
    }
}

fn decode(text: &str) -> String {
    let hex = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = if *first == b'%' { tail.get(..2).and_then(hex) } else { None };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How the client wants its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// As they are.
    Object,
    /// As rows.
    Table(Include),
    /// Their metadata alone.
    Partial,
}

impl View {
    /// The first of the accepted forms that is served.
    ///
    /// # Errors
    /// 406 when there is none.
    pub fn negotiate(headers: &HeaderMap, query: &Query) -> Result<Self, ApiError> {
        let Some(accept) = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()) else {
            return Ok(Self::Object);
        };
        let include = match query.get("includeObject") {
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        };
        let view = |clause: &str| {
            let mut parts = clause.split(';').map(str::trim);
            let json = matches!(parts.next(), Some("application/json" | "application/*" | "*/*"));
            let parameters: Vec<_> = parts.collect();
            let wants = |parameter: &str| parameters.contains(&parameter);
            let form = parameters.iter().find_map(|parameter| parameter.strip_prefix("as="));
            match form {
                _ if !json => None,
                None => Some(Self::Object),
                Some(_) if !wants("g=meta.k8s.io") || !wants("v=v1") => None,
                Some("Table") => Some(Self::Table(include)),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Self::Partial),
                Some(_) => None,
            }
        };
        accept.split(',').find_map(view).ok_or_else(|| ApiError {
            code: 406,
            reason: "NotAcceptable",
            message: format!("only application/json is served, and {accept:?} does not accept it"),
            details: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Target {
        match Path::parse(path) {
            Ok(Path::Objects(target)) => target,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths_of_objects() {
        let pod = target("/api/v1/namespaces/default/pods/web/status");
        assert_eq!((pod.plural.as_str(), pod.namespace.as_deref()), ("pods", Some("default")));
        assert_eq!((pod.name.as_deref(), pod.subresource.as_deref()), (Some("web"), Some("status")));
        let namespace = target("/api/v1/namespaces/default");
        assert_eq!((namespace.plural.as_str(), namespace.name.as_deref()), ("namespaces", Some("default")));
        let status = target("/api/v1/namespaces/default/status");
        assert_eq!((status.plural.as_str(), status.subresource.as_deref()), ("namespaces", Some("status")));
        let pools = target("/apis/manx.io/v1alpha1/ippools/a%20b");
        assert_eq!((pools.group.as_str(), pools.name.as_deref()), ("manx.io", Some("a b")));
        assert!(Path::parse("/nothing").is_err());
        assert_eq!(
            Path::parse("/apis/manx.io/v1"),
            Ok(Path::Discovery(vec!["apis".into(), "manx.io".into(), "v1".into()]))
        );
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a+in+%28b%2Cc%29&watch=1&limit=x&force&bad=%zz");
        assert_eq!(query.get("labelSelector"), Some("a in (b,c)"));
        assert!(query.flag("watch") && query.flag("force") && !query.flag("dryRun"));
        assert_eq!(query.number("limit").expect_err("no number").code, 400);
        assert_eq!(query.get("bad"), Some("%zz"));
    }

    #[test]
    fn kubectls_accept_header_asks_for_tables() {
        let view = |accept: &'static str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, http::HeaderValue::from_static(accept))]);
            View::negotiate(&headers, &Query::default())
        };
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(view(kubectl), Ok(View::Table(Include::Metadata)));
        assert_eq!(view("application/vnd.kubernetes.protobuf,application/json"), Ok(View::Object));
        assert_eq!(view("application/vnd.kubernetes.protobuf").expect_err("protobuf").code, 406);
        assert_eq!(
            view("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Ok(View::Partial)
        );
    }
}
