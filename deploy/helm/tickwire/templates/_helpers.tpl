{{/* The name that every resource begins with. Pods are nodes, and a node's name has no dots. */}}
{{- define "tickwire.fullname" -}}
{{- $name := .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-tickwire" .Release.Name) (contains "tickwire" .Release.Name)) -}}
{{- $name = regexReplaceAll "-+$" ($name | replace "." "-" | trunc 40) "" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "fullnameOverride: set a name with a letter first, then small letters, digits and - only: Kubernetes takes no Service whose name begins with %q" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* Labels that never change: selectors use them. Takes {root, role}. */}}
{{- define "tickwire.selector" -}}
app.kubernetes.io/name: tickwire
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{/* All labels of a resource. Takes {root, role}. */}}
{{- define "tickwire.labels" -}}
{{ include "tickwire.selector" . }}
app.kubernetes.io/version: {{ include "tickwire.version" .root | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The tag of the image as the value of a label: without the digest that may follow it. */}}
{{- define "tickwire.version" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion | splitList "@" | first | trunc 63 -}}
{{- regexReplaceAll "^[^A-Za-z0-9]+|[^A-Za-z0-9]+$" (regexReplaceAll "[^A-Za-z0-9_.-]" $tag "_") "" -}}
{{- end -}}

{{/* A duration of the configuration, such as 1m15s, as whole seconds, rounded up. Nodes read further forms, such as 1.5m,
which are refused here. Takes {key, value}. */}}
{{- define "tickwire.seconds" -}}
{{- $milliseconds := 0 -}}
{{- if not (regexMatch "^([0-9]+(ms|s|m|h))+$" (toString .value)) -}}
{{- fail (printf "config.%s (%v): write it as whole numbers with ms, s, m or h, such as 1m30s: the time that Kubernetes gives a pod to stop is derived from it" .key .value) -}}
{{- end -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h)" (toString .value) -1 -}}
{{- $number := regexFind "^[0-9]+" . | atoi -}}
{{- $unit := get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) (regexFind "[a-z]+$" .) -}}
{{- $milliseconds = add $milliseconds (mul $number $unit) -}}
{{- end -}}
{{- div (add $milliseconds 999) 1000 -}}
{{- end -}}

{{/* A section as TOML. JSON writes texts, whole numbers, booleans and lists of these in the same way, and texts as keys:
names that operators choose, such as plans, may have any letter. */}}
{{- define "tickwire.toml.section" -}}
{{- $path := .path -}}
[{{ $path }}]
{{- range $key, $value := .section }}
{{- if not (kindIs "map" $value) }}
{{ ternary $key (mustToRawJson $key) (regexMatch "^[A-Za-z0-9_-]+$" $key) }} = {{ mustToRawJson $value }}
{{- end }}
{{- end }}
{{ range $key, $value := .section }}
{{- if kindIs "map" $value }}
{{ include "tickwire.toml.section" (dict "path" (printf "%s.%s" $path $key) "section" $value) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* tickwire.toml: what `values.config` says, and what this chart decides. */}}
{{- define "tickwire.toml" -}}
{{- $config := deepCopy .Values.config -}}
{{- range $path := list "node.id" "node.ports_file" "gateway.listen" "admin.listen" -}}
{{- $parts := splitList "." $path -}}
{{- if hasKey (get $config (first $parts) | default dict) (last $parts) -}}
{{- fail (printf "config.%s: the chart sets this key itself; remove it" $path) -}}
{{- end -}}
{{- end -}}
{{- range $name, $section := $config -}}
{{- range $key, $value := $section -}}
{{- if or (and (regexMatch "(password|token|secret)(_file)?$" $key) (ne $key "require_token")) (and (eq $name "nats") (regexMatch "^(user|user_file|credentials|tls_.*)$" $key)) -}}
{{- fail (printf "config.%s.%s: a ConfigMap is no place for it; name a Secret in gateway.nats, router.nats, auth or extraEnv" $name $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $gateway := get $config "gateway" | default dict -}}
{{- if and .Values.ingress.enabled .Values.ingress.byName (not (get $gateway "connect_url")) -}}
{{- $scheme := ternary "wss" "ws" (ne .Values.ingress.tlsSecret "") -}}
{{- $gateway = set $gateway "connect_url" (printf "%s://%s/g/{gateway}/v1/stream" $scheme .Values.ingress.host) -}}
{{- end -}}
{{- $_ := set $config "gateway" (set $gateway "listen" (printf "%s:%v" .Values.gateway.address .Values.gateway.port)) -}}
{{- $_ := set $config "admin" (set (get $config "admin" | default dict) "listen" (printf "%s:%v" .Values.gateway.address .Values.adminPort)) -}}
# Rendered from values.config. `tickwire config reference` explains every key.
{{ range $name, $section := $config }}
{{ include "tickwire.toml.section" (dict "path" $name "section" $section) | trim }}
{{ end }}
{{- end -}}

{{/* The time between the stop of a pod and its SIGKILL: the preStop hook, the grace of the node, and ten seconds. The
node itself needs up to five of these after its grace. Takes {root, role}. */}}
{{- define "tickwire.terminationGrace" -}}
{{- $node := .root.Values.config.node | default dict -}}
{{- $gateway := .root.Values.config.gateway | default dict -}}
{{- $grace := include "tickwire.seconds" (dict "key" "node.shutdown_grace" "value" ($node.shutdown_grace | default "10s")) | atoi -}}
{{- $window := include "tickwire.seconds" (dict "key" "gateway.drain_window" "value" ($gateway.drain_window | default "4s")) | atoi -}}
{{- if le $grace $window -}}
{{- fail (printf "config.node.shutdown_grace (%ds) must be longer than config.gateway.drain_window (%ds): the last sessions need some seconds to read their goodbye" $grace $window) -}}
{{- end -}}
{{- $sleep := ternary (int .root.Values.gateway.preStopSleep) 0 (eq .role "gateway") -}}
{{- add $sleep $grace 10 -}}
{{- end -}}

{{/* The part of a pod that both roles share. Takes {root, role}. */}}
{{- define "tickwire.pod" -}}
{{- $root := .root -}}
{{- if eq (int $root.Values.adminPort) (int $root.Values.gateway.port) -}}
{{- fail (printf "adminPort: a gateway listens for clients at %v already; set another port" $root.Values.adminPort) -}}
{{- end -}}
{{- $own := get .root.Values .role -}}
{{- $nats := $own.nats -}}
{{- if gt (len (compact (list $nats.passwordKey $nats.tokenKey $nats.credentialsKey))) 1 -}}
{{- fail (printf "%s.nats: name one of passwordKey, tokenKey and credentialsKey" .role) -}}
{{- end -}}
{{- if and $nats.passwordKey (not $nats.user) (not $nats.userKey) -}}
{{- fail (printf "%s.nats.passwordKey: set user or userKey too" .role) -}}
{{- end -}}
{{- if and (not $nats.secret) (compact (list $nats.userKey $nats.passwordKey $nats.tokenKey $nats.credentialsKey)) -}}
{{- fail (printf "%s.nats.secret: name the Secret that has the keys" .role) -}}
{{- end -}}
metadata:
  labels:
    {{- include "tickwire.selector" . | nindent 4 }}
    {{- with $own.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # A node reads its configuration at its start only.
    checksum/config: {{ include "tickwire.toml" $root | sha256sum }}
    {{- with $own.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "tickwire.fullname" $root }}
  # Nodes never speak to Kubernetes.
  automountServiceAccountToken: false
  # Kubernetes would add TICKWIRE_… variables for the Services of this chart, which are no configuration.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "tickwire.terminationGrace" . }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
  {{- with $own.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- $selector := . }}
    {{- range $topology := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ $topology }}
      whenUnsatisfiable: {{ $own.spread }}
      labelSelector:
        matchLabels:
          {{- include "tickwire.selector" $selector | nindent 10 }}
    {{- end }}
  containers:
    - name: {{ .role }}
      image: {{ printf "%s:%s" $root.Values.image.repository ($root.Values.image.tag | default $root.Chart.AppVersion) | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ .role }}, --config, /etc/tickwire/tickwire.toml]
      env:
        - name: TICKWIRE_NODE__ID
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        {{- with $nats.user }}
        - name: TICKWIRE_NATS__USER
          value: {{ . | quote }}
        {{- end }}
        {{- range $name, $key := dict "USER_FILE" $nats.userKey "PASSWORD_FILE" $nats.passwordKey "TOKEN_FILE" $nats.tokenKey "CREDENTIALS" $nats.credentialsKey }}
        {{- if $key }}
        - name: TICKWIRE_NATS__{{ $name }}
          value: {{ printf "/etc/tickwire/nats/%s" $key | quote }}
        {{- end }}
        {{- end }}
        {{- if $nats.tls.secret }}
        {{- range $name, $key := dict "CA" $nats.tls.caKey "CERT" $nats.tls.certKey "KEY" $nats.tls.keyKey }}
        {{- if $key }}
        - name: TICKWIRE_NATS__TLS_{{ $name }}
          value: {{ printf "/etc/tickwire/nats-tls/%s" $key | quote }}
        {{- end }}
        {{- end }}
        {{- end }}
        {{- if $root.Values.auth.secret }}
        - name: TICKWIRE_AUTH__JWT_SECRET_FILE
          value: {{ printf "/etc/tickwire/auth/%s" $root.Values.auth.key | quote }}
        {{- with $root.Values.auth.formerKey }}
        - name: TICKWIRE_AUTH__JWT_FORMER_SECRET_FILE
          value: {{ printf "/etc/tickwire/auth/%s" . | quote }}
        {{- end }}
        {{- end }}
        {{- with $own.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- if eq .role "gateway" }}
        - name: clients
          containerPort: {{ $root.Values.gateway.port }}
        {{- end }}
        - name: admin
          containerPort: {{ $root.Values.adminPort }}
      # A node that waits for NATS answers /livez from the start.
      startupProbe:
        httpGet:
          path: /livez
          port: admin
        periodSeconds: 1
        failureThreshold: 60
      # Never /readyz: a gateway that is not ready still serves the clients that it has.
      livenessProbe:
        httpGet:
          path: /livez
          port: admin
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet:
          path: /readyz
          port: admin
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      {{- if and (eq .role "gateway") (gt (int $own.preStopSleep) 0) }}
      # The kubelet sleeps, not the container, which has no shell. New clients stop coming before the drain begins.
      lifecycle:
        preStop:
          sleep:
            seconds: {{ $own.preStopSleep }}
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      resources:
        {{- toYaml $own.resources | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: /etc/tickwire/tickwire.toml
          subPath: tickwire.toml
          readOnly: true
        {{- if $nats.secret }}
        - name: nats
          mountPath: /etc/tickwire/nats
          readOnly: true
        {{- end }}
        {{- if $nats.tls.secret }}
        - name: nats-tls
          mountPath: /etc/tickwire/nats-tls
          readOnly: true
        {{- end }}
        {{- if $root.Values.auth.secret }}
        - name: auth
          mountPath: /etc/tickwire/auth
          readOnly: true
        {{- end }}
        {{- with $own.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "tickwire.fullname" $root }}
    {{- if $nats.secret }}
    - name: nats
      secret:
        secretName: {{ $nats.secret | quote }}
        defaultMode: 0440
    {{- end }}
    {{- if $nats.tls.secret }}
    - name: nats-tls
      secret:
        secretName: {{ $nats.tls.secret | quote }}
        defaultMode: 0440
    {{- end }}
    {{- if $root.Values.auth.secret }}
    - name: auth
      secret:
        secretName: {{ $root.Values.auth.secret | quote }}
        items:
          - key: {{ $root.Values.auth.key | quote }}
            path: {{ $root.Values.auth.key | quote }}
          {{- with $root.Values.auth.formerKey }}
          - key: {{ . | quote }}
            path: {{ . | quote }}
          {{- end }}
        defaultMode: 0440
    {{- end }}
    {{- with $own.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* How many gateways there can be. */}}
{{- define "tickwire.mostGateways" -}}
{{- $autoscaling := .Values.gateway.autoscaling -}}
{{- ternary $autoscaling.maxReplicas .Values.gateway.replicas $autoscaling.enabled | int -}}
{{- end -}}

{{/* What an ingress controller has to know about WebSockets, as docs/balancers.md explains. */}}
{{- define "tickwire.ingressAnnotations" -}}
{{- if eq .Values.ingress.controller "nginx" -}}
nginx.ingress.kubernetes.io/proxy-connect-timeout: "2"
nginx.ingress.kubernetes.io/proxy-read-timeout: "60"
nginx.ingress.kubernetes.io/proxy-send-timeout: "60"
nginx.ingress.kubernetes.io/proxy-next-upstream: error timeout http_503
# Its log would have query strings, in which clients may send tokens.
nginx.ingress.kubernetes.io/enable-access-log: "false"
{{- else -}}
haproxy-ingress.github.io/balance-algorithm: leastconn
haproxy-ingress.github.io/timeout-connect: 2s
haproxy-ingress.github.io/timeout-server: 60s
haproxy-ingress.github.io/timeout-tunnel: 60s
{{- end }}
{{- with .Values.ingress.annotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The class and the certificate of an Ingress. */}}
{{- define "tickwire.ingressHead" -}}
ingressClassName: {{ .Values.ingress.className | default .Values.ingress.controller | quote }}
{{- with .Values.ingress.tlsSecret }}
tls:
  - secretName: {{ . | quote }}
    {{- with $.Values.ingress.host }}
    hosts: [{{ . | quote }}]
    {{- end }}
{{- end }}
{{- end -}}

{{/* Names are looked up at the DNS of the cluster. */}}
{{- define "tickwire.dnsEgress" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end -}}
