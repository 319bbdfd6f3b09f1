// A monitoring mixin (https://monitoring.mixins.dev) of the rules in rules.json and recording.json, which `rlhf-otel generate` writes.
// It needs no program but jsonnet: jsonnet -S -e 'std.manifestYamlDoc((import "mixin.libsonnet").prometheusAlerts)'
(import 'config.libsonnet') + {
  local config = $._config,
  local rules = import 'rules.json',
  local recording = import 'recording.json',

  local replaced(text, replacements) =
    std.foldl(function(done, mark) std.strReplace(done, mark, replacements[mark]), std.objectFields(replacements), text),

  local selected(expression) =
    if config.selector == ''
    then replaced(expression, { '{$(selector)}': '', ',$(selector)': '' })
    else std.strReplace(expression, '$(selector)', config.selector),

  local trace = std.splitLimit(config.trace, '{trace_id}', 1),
  assert config.trace == '' || std.length(trace) == 2 : 'trace must say where {trace_id} belongs',

  local linked(text) = replaced(text, {
    '$(runbooks)': config.runbooks,
    '$(boards)': config.boards,
    '$(trace)': trace[0],
    '$(traceEnd)': if std.length(trace) == 2 then trace[1] else '',
  }),

  local wanted(annotation) =
    !(annotation == 'board_url' && config.boards == '') && !(annotation == 'trace_url' && config.trace == ''),

  local alert(rule) = rule {
    expr: selected(rule.expr),
    labels+: config.labels,
    annotations: {
      [name]: linked(rule.annotations[name])
      for name in std.objectFields(rule.annotations)
      if wanted(name)
    },
  },

  local groups(content, one) = [group { rules: std.map(one, group.rules) } for group in content.groups],

  prometheusAlerts+:: { groups+: groups(rules, alert) },
  prometheusRules+:: { groups+: groups(recording, function(rule) rule { expr: selected(rule.expr) }) },
}
