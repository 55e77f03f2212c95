package lab

import "path/filepath"

// Dir is a directory for files that go when the lab goes. Others may read it.
func (l *Lab) Dir() string { return l.dir }

// Beside starts a program of the machine, such as the agent that watches the lab: as root, in the machine's own network
// namespace, until the lab is taken down. Its output is in LogDir, its environment PATH alone.
func (l *Lab) Beside(name, path string, args ...string) (Process, error) {
	prog := program{kind: name, path: path, args: args}
	cmd, p, err := l.start(prog)
	if err != nil {
		return p, err
	}
	l.children.Go(func() { _ = cmd.Wait() }) // its end is seen by Running
	return p, nil
}

// Others are patterns for the namespaces of all labs but this one, for an agent that is to leave them alone.
func (l *Lab) Others() []string {
	var list []string
	for i := range l.ID {
		list = append(list, netnsPrefix+l.ID[:i]+"[^"+l.ID[i:i+1]+"]*")
	}
	return list
}

// LogFile is what a process of the lab prints.
func (l *Lab) LogFile(p Process) string { return filepath.Join(l.LogDir(), p.Name+".log") }
