// What a user of the mixin may set: (import 'mixin.libsonnet') + { _config+:: { selector: 'cluster="a"' } }
{
  _config+:: {
    // Matchers that every series of ours gets; '' for all.
    selector: '',
    // Prefix of runbook links, which end in /NAME.md.
    runbooks: 'docs/runbooks',
    // Grafana's address for links to boards; '' for none.
    boards: '',
    // Address of a trace, such as 'http://jaeger:16686/trace/{trace_id}'; '' for none.
    trace: '',
    // Labels that every alert gets besides its own.
    labels: {},
  },
}
