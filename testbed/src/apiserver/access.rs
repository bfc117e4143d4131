//! Who asks, and whether they may: service account tokens, and the Roles and ClusterRoles bound to them.
//!
//! Who brings no token is the administrator, as everybody is on a server for tests. A token is asked for as a kubelet
//! does (`serviceaccounts/NAME/token`), belongs to a pod and so to a node, and has its time. It is no secret here: what is
//! tried out is what a service account may do and for how long, not whether somebody else can pretend to be it.

use http::{header, request::Parts};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    error::ApiError,
    request::{Target, Verb},
    state::State,
    store::{Key, Kind},
};

const RBAC: &str = "rbac.authorization.k8s.io";

/// A service account. What is no object (discovery, versions, health) is for everybody to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    namespace: String,
    account: String,
    /// The node its pod runs on; empty for a token of no pod.
    pub node: String,
}

/// Until when the certificate is good that a connection was made with: an extension of its requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Until(pub(super) Timestamp);

/// How long a token is good unless it is said.
const LASTS: SignedDuration = SignedDuration::from_hours(1);

impl Caller {
    /// Whose token a request brings; none: the administrator's.
    ///
    /// # Errors
    /// A token that is none of this server's; one whose time is over, or a certificate's.
    pub fn of(request: &Parts) -> Result<Option<Self>, ApiError> {
        let unauthorized =
            || ApiError { code: 401, reason: "Unauthorized", message: "Unauthorized".into(), details: None };
        let now = Timestamp::now();
        if request.extensions.get::<Until>().is_some_and(|until| until.0 <= now) {
            return Err(unauthorized());
        }
        let Some(value) = request.headers.get(header::AUTHORIZATION) else { return Ok(None) };
        let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
        let mut parts = token.unwrap_or_default().splitn(5, ':').map(str::to_owned);
        match [parts.next(), parts.next(), parts.next(), parts.next(), parts.next()] {
            [Some(of), Some(namespace), Some(account), Some(node), Some(until)]
                if of == "testbed" && until.parse().is_ok_and(|until: Timestamp| now < until) =>
            {
                Ok(Some(Self { namespace, account, node }))
            }
            _ => Err(unauthorized()),
        }
    }

    fn token(&self, until: Timestamp) -> String {
        format!("testbed:{}:{}:{}:{until}", self.namespace, self.account, self.node)
    }

    /// As in `userInfo.username`.
    pub fn username(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.account)
    }
}

/// What a service account has asked, as roles name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Call {
    /// As in `userInfo.username`.
    pub user: String,
    /// `get`, `patch` …
    pub verb: String,
    /// The API group, empty for the core.
    pub group: String,
    /// `pods`, `nodes/status`.
    pub resource: String,
    /// In which namespace; empty: in the whole cluster.
    pub namespace: String,
}

impl Call {
    pub(super) fn new(caller: &Caller, verb: Verb, target: &Target) -> Self {
        let verb = match verb {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch | Verb::Apply => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        };
        let resource = match &target.subresource {
            Some(subresource) => format!("{}/{subresource}", target.plural),
            None => target.plural.clone(),
        };
        Self {
            user: caller.username(),
            verb: verb.to_owned(),
            group: target.group.clone(),
            resource,
            namespace: target.namespace.clone().unwrap_or_default(),
        }
    }

    /// Of an event of a real server's audit log; none: it was no object that was asked for.
    ///
    /// # Errors
    /// When it is no such event.
    pub fn audited(line: &str) -> serde_json::Result<Option<Self>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Event {
            user: User,
            verb: String,
            object_ref: Option<Object>,
        }
        #[derive(Deserialize)]
        struct User {
            username: String,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Object {
            api_group: String,
            resource: String,
            subresource: String,
            namespace: String,
        }
        let Event { user, verb, object_ref } = serde_json::from_str(line)?;
        Ok(object_ref.map(|object| {
            let resource = match object.subresource.as_str() {
                "" => object.resource,
                subresource => format!("{}/{subresource}", object.resource),
            };
            let (group, namespace) = (object.api_group, object.namespace);
            Self { user: user.username, verb, group, resource, namespace }
        }))
    }
}

impl State {
    /// Answers a TokenRequest for a service account, bound to the pod it names.
    pub(super) fn token(&self, target: &Target, request: &Value) -> Result<Value, ApiError> {
        let namespace = target.namespace.clone().unwrap_or_default();
        let account = target.name.clone().unwrap_or_default();
        let refuse = |what: &str, name: &str| ApiError {
            code: 404,
            reason: "NotFound",
            message: format!("{what} \"{name}\" not found"),
            details: None,
        };
        if self.store.get(&Kind::new("", "serviceaccounts"), &Key::new(&namespace, &account)).is_none() {
            return Err(refuse("serviceaccounts", &account));
        }
        let bound = &request["spec"]["boundObjectRef"];
        let node = match bound["name"].as_str() {
            Some(name) if bound["kind"] == "Pod" => {
                let pod = self.store.get(&Kind::new("", "pods"), &Key::new(&namespace, name));
                let pod = pod.ok_or_else(|| refuse("pods", name))?;
                pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()
            }
            _ => String::new(),
        };
        let caller = Caller { namespace, account, node };
        let lasts = request["spec"]["expirationSeconds"].as_i64().map_or(LASTS, SignedDuration::from_secs);
        let until = Timestamp::now().checked_add(lasts).unwrap_or(Timestamp::MAX);
        Ok(json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
            "spec": request["spec"],
            "status": { "token": caller.token(until), "expirationTimestamp": until.to_string() },
        }))
    }

    /// Refuses what no role bound to the caller allows (RBAC; `kubectl auth can-i` of the real server).
    pub(super) fn authorize(&self, caller: &Caller, verb: Verb, target: &Target) -> Result<(), ApiError> {
        let Call { verb, resource, .. } = Call::new(caller, verb, target);
        let allows = |rule: &Value| {
            let has = |list: &str, wanted: &str| {
                let list = rule[list].as_array();
                list.is_some_and(|list| list.iter().any(|one| *one == "*" || *one == wanted))
            };
            let names = rule["resourceNames"].as_array().filter(|names| !names.is_empty());
            let named = names.is_none_or(|names| {
                target.name.as_deref().is_some_and(|name| names.iter().any(|one| *one == name))
            });
            has("verbs", &verb) && has("apiGroups", &target.group) && has("resources", &resource) && named
        };
        if self.rules(caller, target.namespace.as_deref()).iter().any(allows) {
            return Ok(());
        }
        let group = if target.group.is_empty() { "" } else { target.group.as_str() };
        let place = match &target.namespace {
            Some(namespace) => format!("in the namespace \"{namespace}\""),
            None => "at the cluster scope".to_owned(),
        };
        let message = format!(
            "{resource} is forbidden: User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {place}",
            caller.username()
        );
        Err(ApiError { code: 403, reason: "Forbidden", message, details: None })
    }

    /// The rules that hold for the caller, in one namespace and in the whole cluster.
    fn rules(&self, caller: &Caller, namespace: Option<&str>) -> Vec<Value> {
        let bound = |binding: &Value| {
            binding["subjects"].as_array().is_some_and(|subjects| {
                subjects.iter().any(|subject| {
                    subject["kind"] == "ServiceAccount"
                        && subject["name"] == caller.account.as_str()
                        && subject["namespace"] == caller.namespace.as_str()
                })
            })
        };
        let mut roles = Vec::new();
        for (_, binding) in self.store.list(&Kind::new(RBAC, "clusterrolebindings"), None) {
            if bound(binding) {
                roles.push((binding["roleRef"].clone(), ""));
            }
        }
        if let Some(namespace) = namespace {
            for (_, binding) in self.store.list(&Kind::new(RBAC, "rolebindings"), Some(namespace)) {
                if bound(binding) {
                    roles.push((binding["roleRef"].clone(), namespace));
                }
            }
        }
        let role = |(reference, namespace): (Value, &str)| {
            let name = reference["name"].as_str().unwrap_or_default();
            let (plural, namespace) =
                if reference["kind"] == "Role" { ("roles", namespace) } else { ("clusterroles", "") };
            self.store.get(&Kind::new(RBAC, plural), &Key::new(namespace, name)).cloned()
        };
        let roles = roles.into_iter().filter_map(role);
        roles.flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Call;

    #[test]
    fn an_audit_log_says_who_has_asked_for_what() {
        let line = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"1","stage":"RequestReceived",
            "requestURI":"/apis/manx.io/v1alpha1/nodestatuses/node1/status?fieldManager=manx-felix","verb":"patch",
            "user":{"username":"system:serviceaccount:manx-system:manx-felix","groups":["system:serviceaccounts"]},
            "objectRef":{"resource":"nodestatuses","name":"node1","apiGroup":"manx.io","apiVersion":"v1alpha1","subresource":"status"}}"#;
        let call = Call::audited(line).unwrap().unwrap();
        let expected =
            ["system:serviceaccount:manx-system:manx-felix", "patch", "manx.io", "nodestatuses/status", ""];
        assert_eq!([call.user, call.verb, call.group, call.resource, call.namespace], expected);
        let version = r#"{"requestURI":"/version","verb":"get","user":{"username":"somebody"}}"#;
        assert_eq!(Call::audited(version).unwrap(), None);
        assert!(Call::audited("{").is_err());
    }
}
