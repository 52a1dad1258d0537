# Counts to five. Try: bin/cronium-supervisor exec etc/examples/hello.sh
echo "Hello from bash $BASH_VERSION on $(uname -m)"

for step in 1 2 3 4 5; do
    echo "step $step of 5"
    cronium_progress $((step * 20)) "step $step"
    sleep 0.2
done

cronium_output '{"greeting": "hello", "steps": 5}'
