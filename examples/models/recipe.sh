# What the recipes beside this file do. They set model, head, dtype and, where they are needed, rope_theta and template:
#
#   fetch    the model and the head, about twice their memory on the disk at most
#   inspect  what the head's files say, and what is made of it
#   tune     policies for this machine, which the next steps use
#   eval     speedup and acceptance length on the paper's questions, which are fetched by name
#   serve    OpenAI's protocol on port 8000
#
# What follows the step is handed on to its command. WORK names another folder than out/models/RECIPE.
set -eu
here=$(dirname "$0")
work=${WORK:-out/models/$(basename "$0" .sh)}
step=${1:-}
[ $# -eq 0 ] || shift

case $step in
fetch)
    hf download "$model" --local-dir "$work/model" "$@"
    [ -z "${template:-}" ] || cp "$here/$template" "$work/model/chat_template.jinja"
    if [ -z "${rope_theta:-}" ]; then
        hf download "$head" --local-dir "$work/head" "$@"
    else
        hf download "$head" --local-dir "$work/published-head" "$@"
        ltd export "$work/head" --to ltd --head "$work/published-head" --rope-theta "$rope_theta"
    fi
    ;;
inspect) ltd inspect "$work/head" "$@" ;;
tune) ltd tune --target "$work/model" --draft "$work/head" --dtype "$dtype" --out "$work/tune" "$@" ;;
eval)
    ltd eval --target "$work/model" --draft "$work/head" --dtype "$dtype" --out "$work/eval" \
        --tasks mt_bench,gsm8k,alpaca,qa --methods none,eagle3,tuned "$@"
    ;;
serve)
    test -e "$work/served" ||
        ltd export "$work/model" "$work/served" --to custom-generate --head "$work/head" --dtype "$dtype"
    transformers serve "$work/served" --trust-remote-code "$@"
    ;;
*)
    echo "error: the step is '$step', but must be fetch, inspect, tune, eval or serve" >&2
    exit 2
    ;;
esac
