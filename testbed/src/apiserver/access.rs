//! Who asks, and whether they may: service account tokens, and the Roles and ClusterRoles bound to them.
//!
//! Who brings no token is the administrator, as everybody is on a server for tests. A token is asked for as a kubelet
//! does (`serviceaccounts/NAME/token`), and belongs to a pod and so to a node. It is no secret here: what is tried out
//! is what a service account may do, not whether somebody else can pretend to be it.

use http::{HeaderMap, header};
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

impl Caller {
    /// Whose token a request brings; none: the administrator's.
    ///
    /// # Errors
    /// A token that is none of this server's.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
        let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
        let mut parts = token.unwrap_or_default().split(':').map(str::to_owned);
        match [parts.next(), parts.next(), parts.next(), parts.next(), parts.next()] {
            [Some(of), Some(namespace), Some(account), Some(node), None] if of == "testbed" => {
                Ok(Some(Self { namespace, account, node }))
            }
            _ => Err(ApiError {
                code: 401,
                reason: "Unauthorized",
                message: "Unauthorized".into(),
                details: None,
            }),
        }
    }

    fn token(&self) -> String {
        format!("testbed:{}:{}:{}", self.namespace, self.account, self.node)
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
        Ok(json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
            "spec": request["spec"], "status": { "token": caller.token(), "expirationTimestamp": "2099-01-01T00:00:00Z" },
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
