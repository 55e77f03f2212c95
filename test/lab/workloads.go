package lab

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// workload is an entry of the agent's topology file.
type workload struct {
	Name      string   `yaml:"name"`
	Namespace string   `yaml:"namespace"`
	Service   string   `yaml:"service"`
	Node      string   `yaml:"node"`
	Addresses []string `yaml:"addresses,flow"`
	Role      Role     `yaml:"role"`
}

// WorkloadsYAML says who is behind the pods' addresses, as the agent's topology file wants it.
func (l *Lab) WorkloadsYAML() ([]byte, error) {
	var list []workload
	for _, p := range l.Pods() {
		list = append(list, workload{
			Name: p.Name, Namespace: "demo", Service: p.Name, Node: "node-1",
			Addresses: []string{p.V4.String(), p.V6.String()}, Role: p.Role,
		})
	}
	out, err := yaml.Marshal(map[string]any{"workloads": list})
	if err != nil {
		return nil, fmt.Errorf("write workloads: %w", err)
	}
	return out, nil
}
